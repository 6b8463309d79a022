"""Everything a run needs to go on exactly where it stopped, in one file written whole or not at all."""

from __future__ import annotations

import pickle
import signal
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ffn.checkpoint import write_atomically


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
    losses: dict[str, float] = field(default_factory=dict)
    """this epoch's loss terms, summed over the steps done"""
    history: list[dict] = field(default_factory=list)
    """the rows of metrics.csv"""


def save_state(path: Path, progress: Progress, **parts) -> None:
    """Write progress, the state of each part (model, optimiser ...) and of the random generators."""
    state = {name: part.state_dict() for name, part in parts.items()}
    state["progress"] = vars(progress)
    state["rng"] = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
    write_atomically(path, lambda partial: torch.save(state, partial))


def load_state(path: Path, device: torch.device, **parts) -> Progress:
    """Restore what :func:`save_state` wrote.

    Raises:
        ValueError: if the file is damaged or of another run.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["rng"]["cpu"].cpu())
        torch.cuda.set_rng_state_all([s.cpu() for s in state["rng"]["cuda"][: torch.cuda.device_count()]])
        return Progress(**state["progress"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, EOFError, TypeError) as error:
        raise ValueError(f"{path} cannot be resumed from ({error}); start again in another folder") from error


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
