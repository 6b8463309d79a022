# Demo, dashboard and worker behind one port, as an unprivileged user:
#   docker build -t ffn . && docker run -p 7860:7860 -v ffn:/data -e FFN_PASSWORD=... ffn
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends nginx-light \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 user \
    && install -d -o user /data

WORKDIR /home/user/app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt honcho
COPY --chown=user . .
RUN pip install --no-cache-dir -e .

USER user
ENV HOME=/home/user PYTHONUNBUFFERED=1 FFN_RUNS=/data/runs FFN_DATA=/data/data
VOLUME /data
EXPOSE 7860
CMD ["deploy/start"]
