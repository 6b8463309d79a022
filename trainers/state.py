"""Everything a run needs to go on exactly where it stopped, in one file written whole or not at all."""

from __future__ import annotations

import pickle
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ffn.checkpoint import write_atomically

STOPPED = 75
"""exit code of a run that was asked to stop and saved its state; sysexits.h has it for "try again later"."""


class Stopped(Exception):
    """The run was asked to stop and its state is saved; ``signal`` says by what."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal = signal_number


@dataclass
class Progress:
    """Where a run is: ``step`` batches of ``epoch`` are done (both from 0); every epoch's metrics so far."""

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    """highest mean accuracy (%) over the validated frame counts so far"""
    best_epoch: int = 0
    """epochs done when it was reached"""
    losses: dict[str, tuple[float, int]] = field(default_factory=dict)
    """this epoch's loss terms: each one's sum, and over how many steps"""
    history: list[dict] = field(default_factory=list)
    """the rows of metrics.csv"""

    def add(self, losses: dict[str, float]) -> None:
        """Count a step's losses in."""
        for name, value in losses.items():
            before, steps = self.losses.get(name, (0.0, 0))
            self.losses[name] = before + value, steps + 1

    @property
    def mean_losses(self) -> dict[str, float]:
        return {name: value / steps for name, (value, steps) in self.losses.items()}


def save_state(path: Path, progress: Progress, generators: list[dict], **parts) -> None:
    """Write progress, the state of each part (model, optimiser ...) and every process's random generators."""
    state = {name: part.state_dict() for name, part in parts.items()}
    state["progress"] = vars(progress)
    state["generators"] = generators
    try:
        write_atomically(path, lambda partial: torch.save(state, partial))
    except RuntimeError as error:  # what torch.save makes of a full disk
        raise OSError(f"{path} cannot be written (is the disk full?): {error}") from error


def load_state(path: Path, device: torch.device, **parts) -> tuple[Progress, list[dict]]:
    """Restore what :func:`save_state` wrote into ``parts``; the progress, and every process's generators.

    Raises:
        ValueError: if the file is damaged or of another run.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        for name, part in parts.items():
            if state[name]:  # that of a scaler which was off is empty
                part.load_state_dict(state[name])
        return Progress(**state["progress"]), state["generators"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be resumed from ({error}); start again in another folder") from error


def generator_state() -> dict:
    """The state of every random generator of this process, in types that ``torch.load`` reads safely."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
    }


def restore_generators(state: dict) -> None:
    torch.set_rng_state(state["torch"].cpu())
    torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"][: torch.cuda.device_count()]])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))


class StopRequest:
    """Turns SIGINT and SIGTERM into a request that the loop honours between steps; a second one kills."""

    def __enter__(self) -> StopRequest:
        self.signal: int | None = None
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        self.signal = number
        signal.signal(number, self._before[number])
