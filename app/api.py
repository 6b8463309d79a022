"""The same answers for programs: named endpoints, and the example that the page shows."""

from __future__ import annotations

import json
from dataclasses import asdict

import gradio as gr

from app.answers import Answers, Cost, Point
from app.clips import COUNTS
from app.networks import Entry, Pair
from app.sentences import sentences
from ffn.predict import Prediction
from ffn.video import LoadedClip

EXAMPLE = """from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")
networks = client.predict(api_name="/networks")  # every name that `network` takes
clip = handle_file("clip.mp4")

answer = client.predict(clip, frames=8, network="", api_name="/predict")  # "": the first network
print(answer["flexible"][0], answer["latency_ms"])

curve = client.predict(clip, network="", api_name="/sweep")  # every frame count
cheap = client.predict(milliseconds=10, network="", api_name="/budget")  # frames within a time limit
stages = client.predict(clip, confidence=0.9, network="", api_name="/cascade")
"""


HERE = "http://127.0.0.1:7860"
ADDRESS = f"() => {json.dumps(EXAMPLE)}.replace({json.dumps(HERE)}, location.origin + location.pathname)"
"""for the page: the example, with the address at which the visitor sees it"""


class Endpoints:
    """What programs call: plain values in, JSON out, and gr.Error with one sentence for what is wrong."""

    def __init__(self, answers: Answers):
        self._answers, self._networks = answers, answers.networks

    def networks(self) -> list[dict]:
        """Every network that the other endpoints take by name, the first being theirs without one."""
        first = self._networks.first()
        return [
            {"name": e.name, "model": e.model, "frames": list(e.frames), "flexible": e.flexible}
            for e in sorted(self._networks.list(), key=lambda entry: entry != first)
        ]

    def predict(self, video: str, frames: float, network: str) -> dict:
        """What a network, and the plain one beside it, say of a video from 1 to 32 of its frames."""
        if frames not in COUNTS:
            raise ValueError(f"frames must be a whole number from {COUNTS[0]} to {COUNTS[-1]}, not {frames:g}")
        pair, clip = self._open(video, network)
        main, plain = self._answers.predict(pair, clip, int(frames))
        return {
            "frames": main.frames,
            "sub_network": main.frequency,
            "indices": [clip.first + index for index in main.indices],
            "times": [round(clip.seconds_at(index), 3) for index in main.indices],
            "flexible": _top(main),
            "plain": _top(plain),
            "latency_ms": {
                "decoding": round(clip.decode_ms, 2),
                "preprocessing": round(main.preprocess_ms, 2),
                "network": round(main.network_ms, 2),
            },
        }

    def sweep(self, video: str, network: str) -> list[dict]:
        """Best classes and cost of a video at every frame count from 1 to 32."""
        points = sorted(self._answers.sweep(*self._open(video, network)), key=lambda point: point.frames)
        return [_point(point) for point in points]

    def budget(self, milliseconds: float, network: str) -> dict:
        """The most frames that a network takes within a time limit on this machine."""
        return asdict(self._answers.fit(self._entry(network), milliseconds))

    def cascade(self, video: str, confidence: float, network: str) -> list[dict]:
        """Few frames first, more while unsure; stages that were not needed have no answer."""
        pair, clip = self._open(video, network)
        stages = self._answers.cascade(pair.main, clip, confidence)
        return [{"frames": s.frames, **_cost(s.cost), "top": _top(s.prediction)} for s in stages]

    def _entry(self, network: str) -> Entry:
        return self._networks.find(network) if network else self._networks.first()

    def _open(self, video: str, network: str) -> tuple[Pair, LoadedClip]:
        pair = self._networks.pair(self._entry(network))
        return pair, self._answers.clip(video, self._answers.cut(pair))


def page(answers: Answers, limits: dict) -> gr.Code:
    """The tab for programs: an example to copy, which is returned, and the endpoints.

    The endpoints' components never show; they are here because, unlike ``gr.api``, they refuse the path of a
    file that the caller did not upload.
    """
    code = gr.Code(
        EXAMPLE, language="python", label="pip install gradio_client", interactive=False, elem_id="code"
    )
    endpoints = Endpoints(answers)
    video = gr.File(label="video", visible=False)
    frames = gr.Number(8, label="frames", visible=False)
    milliseconds = gr.Number(10, label="milliseconds", visible=False)
    confidence = gr.Number(0.9, label="confidence", visible=False)
    network = gr.Textbox("", label="network", visible=False)
    answer = gr.JSON(label="answer", visible=False)
    for function, inputs in (
        (endpoints.networks, []),
        (endpoints.predict, [video, frames, network]),
        (endpoints.sweep, [video, network]),
        (endpoints.budget, [milliseconds, network]),
        (endpoints.cascade, [video, confidence, network]),
    ):
        name = function.__name__
        video.upload(
            sentences(function), inputs, answer, api_name=name, api_description=function.__doc__, **limits
        )
    return code


def _top(prediction: Prediction | None) -> list[dict] | None:
    return prediction and [{"class": name, "probability": round(p, 4)} for name, p in prediction.top]


def _cost(cost: Cost) -> dict:
    return {"ms": round(cost.ms, 2), "gflops": round(cost.gflops, 4)}


def _point(point: Point) -> dict:
    plain = point.plain and {"top": _top(point.plain), **_cost(point.plain_cost)}
    return {"frames": point.frames, "top": _top(point.main), **_cost(point.main_cost), "plain": plain}
