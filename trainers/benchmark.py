"""What one training step costs: ``python -m trainers.benchmark --models tsm_resnet50``

The step is the trainer's own, of method ``ffn`` at the network's frequencies, on clips of noise. Each
measurement has a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

import ffn
from ffn.device import choose_device
from ffn.measure import describe, process_memory
from trainers import report
from trainers.config import Config
from trainers.data.clips import Batch
from trainers.loop import Trainer
from trainers.memory import use_huge_pages
from trainers.recipes import RECIPES


@dataclass(frozen=True)
class Released:
    """The released code's step, as ``recipe`` has it: on two CPU cores, 2 clips, 224 pixels, float32."""

    recipe: str
    seconds: float
    gigabytes: float


RELEASED = {
    "tsm_resnet50": Released("tsm-ffn-ssv1", 14.0, 8.7),
    "tea_resnet50": Released("tea-ffn-ssv1", 10.0, 8.9),
    "slowfast_resnet50": Released("slowfast-ffn-ssv1", 18.0, 14.5),
    "uniformer_small": Released("uniformer-ffn-ssv1", 12.0, 5.4),
}

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Job:
    """A step to be measured: ``batch_size`` clips of ``size`` pixels at each of the network's frequencies."""

    model: str
    precision: Precision = "fp32"
    batch_size: int = 2
    size: int = 224
    device: str = "cpu"
    repeats: int = 3

    @property
    def config(self) -> Config:
        settings = RECIPES[RELEASED[self.model].recipe].settings if self.model in RELEASED else {}
        settings = settings | {"init": None, "warm_start": 0, "model": self.model, "method": "ffn"}
        own = {"batch_size": self.batch_size, "size": self.size}
        own |= {"precision": self.precision, "device": self.device, "data_root": None, "data": "motion"}
        return Config().with_fields(settings | own).resolved()


@dataclass(frozen=True)
class Cost:
    """Seconds a step takes (median), and the most memory that the process held, in GB (10**9 bytes)."""

    seconds: float
    gigabytes: float
    machine: str


@dataclass(frozen=True)
class _Noise:
    """As many unseen clips as a batch needs; the benchmark makes the batches itself."""

    length: int
    classes: tuple[str, ...] = tuple(map(str, range(174)))

    def __len__(self) -> int:
        return self.length

    def batch(self, counts: tuple[int, ...], size: int) -> Batch:
        rng = np.random.default_rng(0)
        clips = {n: rng.integers(256, size=(self.length, n, size, size, 3), dtype=np.uint8) for n in counts}
        indices = torch.arange(self.length)
        return Batch({n: torch.from_numpy(clip) for n, clip in clips.items()}, indices, indices, [])


def measure(job: Job) -> Cost:
    """Time ``job.repeats`` steps, after one that is not timed. The memory is that of this whole process."""
    use_huge_pages()
    source = _Noise(job.batch_size)
    trainer = Trainer(job.config, source, source)
    task = trainer.stages[-1].task
    batch = source.batch(task.frames, job.size)
    trainer.model.train()
    seconds = []
    for _ in range(1 + job.repeats):
        start = time.perf_counter()
        trainer.step(task, batch)  # its losses are read at the end: the device is done by then
        seconds.append(time.perf_counter() - start)
    cuda = trainer.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(trainer.device) if cuda else process_memory("VmHWM")
    return Cost(statistics.median(seconds[1:]), peak / 1e9, describe(trainer.device))


def measured_apart(job: Job) -> Cost:
    """:func:`measure` in a process of its own.

    Raises:
        ValueError: if there is not enough memory, or the process is killed, which often means the same.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(measure, job).result()
        except (BrokenProcessPool, MemoryError, torch.OutOfMemoryError) as error:
            raise ValueError(
                f"a step of {job.model} in {job.precision} needed more memory than there is, or was killed: "
                "try a smaller --batch-size or --size"
            ) from error


def rows(costs: dict[Job, Cost]) -> Iterator[list[str]]:
    """The table: a job's own figures and, where the released code ran the like, the ratio to its."""
    yield ["network", "precision", "step (s)", "released (s)", "ratio", "peak (GB)", "released (GB)", "ratio"]
    for job, cost in costs.items():
        released = RELEASED.get(job.model) if (job.batch_size, job.size) == (2, 224) else None
        time_ = _beside(cost.seconds, released and released.seconds)
        memory = _beside(cost.gigabytes, released and released.gigabytes)
        yield [job.model, job.precision, *time_, *memory]


def _beside(value: float, reference: float | None) -> tuple[str, str, str]:
    if reference is None:
        return f"{value:.2f}", "", ""
    return f"{value:.2f}", f"{reference:.1f}", f"{value / reference:.2f}"


def loader_rows() -> list[list[str]]:
    """What :func:`trainers.benchmark_loader.measure_loader` measures, as a table."""
    from trainers.benchmark_loader import measure_loader

    measured = measure_loader()
    columns = list(measured[0])
    return [columns, *([_cell(row[column]) for column in columns] for row in measured)]


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(
    models: tuple[str, ...] = tuple(RELEASED),
    precision: tuple[Precision, ...] = ("fp32", "bf16"),
    batch_size: int = 2,
    size: int = 224,
    repeats: int = 3,
    device: str = "cpu",
    loader: bool = False,
) -> None:
    """Print what one training step of each network costs, as a Markdown table beside the released code's.

    Args:
        models: networks, of ffn.list_models().
        precision: what they compute in.
        batch_size: videos per step; each gives one clip per frequency.
        size: side of the clips in pixels.
        repeats: steps to time; the median counts.
        device: cpu, cuda ...
        loader: measure the data loader as well: milliseconds per sample of each kind of storage.
    """
    if unknown := set(models) - set(ffn.list_models()):
        raise ValueError(f"there is no model {min(unknown)!r}; choose of {', '.join(ffn.list_models())}")
    if min(batch_size, size, repeats) < 1:
        raise ValueError("batch_size, size and repeats must be at least 1")
    choose_device(device)
    costs = {}
    jobs = [Job(m, p, batch_size, size, device, repeats) for m in models for p in precision]
    with tqdm(jobs, "measuring", unit="step", leave=False) as bar:
        for job in bar:
            bar.set_postfix_str(f"{job.model} {job.precision}")
            costs[job] = measured_apart(job)
    print(f"{batch_size} videos of {size} pixels a step; {next(iter(costs.values())).machine}\n")
    print(report.table(list(rows(costs))))
    if loader:
        print(f"\nData loader:\n\n{report.table(loader_rows())}")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except ValueError as error:
        print(f"trainers.benchmark: {error}", file=sys.stderr)
        sys.exit(2)
