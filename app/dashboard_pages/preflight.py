"""Before a job is queued: is its data there, and what will it take? ``python -m app.dashboard_pages.preflight``
measures a step of the configuration that it reads, so that a page can give it up after a while.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trainers.config import Config
from trainers.jobs.paths import confine, data_folders, runs_folder
from trainers.run import sources

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds that a measurement may take
ASSETS = ROOT / "assets"


@dataclass(frozen=True)
class Estimate:
    """What a run will take, by one measured step: seconds of a step, of the clips it needs, of the whole run;
    bytes of memory at most."""

    step: float
    loading: float
    total: float
    memory: int
    device: str


def confined(config: Config) -> Config:
    """With absolute paths, which lie in the folders they may lie in.

    Raises:
        ValueError: with one sentence, if one leads elsewhere.
    """
    changes, init = {}, config.network.init
    if config.dataset.data_root is not None:
        changes["data_root"] = _there("data_root", config.dataset.data_root, data_folders())
    if config.dataset.cache is not None:
        changes["cache"] = confine(config.dataset.cache, runs_folder())
    if init and re.search(r"[/\\.]", init) and not re.fullmatch(r"\w+_Weights\.\w+", init):  # torchvision's
        # As a command would find it, else as shipped, else as a run's.
        named = next(filter(Path.exists, (Path(init).absolute(), ROOT / init)), init)
        changes["init"] = str(_there("init", named, [runs_folder(), *data_folders(), ASSETS]))
    return config.with_fields(changes)


def describe_data(config: Config) -> str:
    """One sentence about the data set; raises ValueError or OSError if it is not there."""
    train, val = sources(config.with_fields({"cache": None}))  # nothing is written for a look
    batch = config.optim.batch_size
    if len(train) < batch:
        raise ValueError(f"{len(train)} training clips do not fill one batch of {batch}: lower batch_size")
    return f"{len(train):,} training and {len(val):,} validation clips of {len(train.classes)} classes"


def estimate(config: Config, *, on_gpu: bool, patience: float = PATIENCE) -> Estimate:
    """Measure a step in a process of its own.

    Raises:
        ValueError: with one sentence, if it cannot be, or takes longer than ``patience`` seconds.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({} if on_gpu else {"CUDA_VISIBLE_DEVICES": ""})
    command = [sys.executable, "-m", "app.dashboard_pages.preflight"]
    try:
        done = subprocess.run(
            command, input=config.to_json(), env=environment, capture_output=True, text=True, timeout=patience
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"A step could not be measured within {patience:.0f} seconds.") from None
    if done.returncode:
        last = (done.stderr.strip() or "it was killed, perhaps for want of memory").splitlines()[-1]
        raise ValueError(f"A step could not be measured: {last}")
    return Estimate(**json.loads(done.stdout.splitlines()[-1]))


def measure(config: Config) -> Estimate:
    """Take a step as the run would, on random clips of the right shape, and load a few real ones."""
    import torch

    from trainers.data.clips import Batch, Clips
    from trainers.loop import Trainer

    train, val = sources(config.with_fields({"cache": None}))
    trainer = Trainer(config, train, val)
    trainer.model.train()
    task = trainer.stages[-1].task
    count, size = config.optim.batch_size, trainer.train_preprocess.size
    clips = {n: torch.randint(0, 256, (count, n, size, size, 3), dtype=torch.uint8) for n in task.frames}
    batch = Batch(clips, torch.zeros(count, dtype=torch.int64), torch.arange(count), [])
    trainer.step(task, batch)  # the first one sets things up
    step = _seconds(lambda: trainer.step(task, batch))
    samples = Clips(train, task.frames, trainer.train_preprocess, config.seed, 0)
    few = min(4, len(samples))
    loading = _seconds(lambda: [samples[i] for i in range(few)]) / few * count / max(1, trainer.workers)
    checked = len(val) / count / 3 * len(config.frames) / len(task.frames)  # forwards only: a third of a step
    total = config.optim.epochs * (trainer.steps + checked) * max(step, loading)
    return Estimate(step, loading, total, _peak_memory(trainer.device), str(trainer.device))


def _peak_memory(device) -> int:
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _there(name: str, path, allowed) -> Path:
    found = confine(path, allowed, itself=True)
    if not found.exists():
        raise ValueError(f"{name}: there is nothing at {found}")
    return found


def main() -> int:
    try:
        config = replace(Config.from_json(sys.stdin.read()), resume="never")
        print(json.dumps(asdict(measure(config))))
    except Exception as error:  # whatever it is, the page shows it as one sentence
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
