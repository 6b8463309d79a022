"""Shared fixtures: real encoded clips, and a browser."""

import itertools
import os
import shutil
from fractions import Fraction

import av
import numpy as np
import psycopg
import pytest
import services

if side_by_side := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # share the cores, don't each take all
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(side_by_side))))

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update"]
QUIET += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a camera


def _encode(path, frames, fps=30, codec="libx264", *, times=None, rotation=0, container=None, options=None):
    """Write uint8 RGB ``frames`` (T, H, W, 3) as a real video and return its path.

    ``times`` in milliseconds give a variable frame rate; ``rotation`` in degrees is noted in the metadata,
    as phones do; ``options`` are the container's (``{"live": "1"}``: a browser's recording).
    """
    with av.open(str(path), "w", format=container, options=options or {}) as file:
        stream = file.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.bit_rate = 2_000_000  # brightness must survive
        stream.pix_fmt = "yuv420p" if frames.shape[1] % 2 == frames.shape[2] % 2 == 0 else "yuv444p"
        base = Fraction(1, 1000) if times is not None else Fraction(1, fps)
        stream.codec_context.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            frame.time_base, frame.pts = base, int(times[i]) if times is not None else i
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.fixture(autouse=True, scope="session")
def _runs_folder(tmp_path_factory):
    """Runs that tests start report to a database of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FFN_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.delenv("FFN_DATABASE_URL", raising=False)
        yield


@pytest.fixture(scope="session")
def encode():
    return _encode


@pytest.fixture(scope="session")
def numbered():
    """``numbered(count, height, width)``: grey frames whose brightness is 20 + 4 x the frame's number."""

    def frames(count, height=48, width=64):
        levels = 20 + 4 * np.arange(count)
        assert levels.max(initial=0) < 256, "brightness would wrap"
        return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).astype(np.uint8)

    return frames


@pytest.fixture(scope="session")
def clip(tmp_path_factory, encode, numbered):
    """A video file of 6 ``numbered`` frames of 32 x 24 pixels."""
    return encode(tmp_path_factory.mktemp("clip") / "a.mp4", numbered(6, 24, 32))


@pytest.fixture(scope="session")
def audio_only():
    def write(path):
        with av.open(str(path), "w") as file:
            stream = file.add_stream("aac", rate=44100)
            sound = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), "fltp", "stereo")
            sound.sample_rate, sound.pts = 44100, 0
            file.mux(stream.encode(sound))
            file.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium, headless; without one tests skip, or fail if FFN_REQUIRE_BROWSER=1."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        give_up = pytest.fail if os.environ.get("FFN_REQUIRE_BROWSER") == "1" else pytest.skip
        give_up(f"no browser: looked for {', '.join(BROWSERS)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, headless=True, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def postgres():
    """``postgres()``: the URL of a new, empty PostgreSQL database."""
    with services.postgres() as url, psycopg.connect(url.format("postgres"), autocommit=True) as connection:
        numbers = itertools.count()

        def create():
            name = f"jobs_{next(numbers)}"
            connection.execute(f"CREATE DATABASE {name}")
            return url.format(name)

        yield create


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path, monkeypatch):
    """The URL of an empty job database, on SQLite and on PostgreSQL; runs lie in ``tmp_path / "runs"``."""
    monkeypatch.setenv("FFN_RUNS", str(tmp_path / "runs"))
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/runs/jobs.db" if sqlite else request.getfixturevalue("postgres")()
    monkeypatch.setenv("FFN_DATABASE_URL", url)
    return url


@pytest.fixture(scope="session")
def slurm():
    """A real one-node SLURM that sbatch and the others find."""
    with services.slurm() as configuration, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", configuration)
        yield
