"""The training loop: fit, one epoch, one step."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import ffn
from ffn.device import channels_last, choose_device, choose_precision
from ffn.preprocess import Preprocess
from trainers import distributed, report
from trainers.config import Config
from trainers.data.clips import Batch, Clips, default_workers, train_batches
from trainers.distributed import average_gradients, gather, is_main, rank, total, world
from trainers.evaluate import evaluate
from trainers.methods import METHODS, Stage, Task
from trainers.mixing import mix
from trainers.optim import create_optimizer, create_schedule, freeze_norms
from trainers.outcome import Outcome
from trainers.state import (
    Progress,
    Stopped,
    StopRequest,
    generator_state,
    load_state,
    restore_generators,
    save_state,
)

log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """The run cannot go on; the message says at which step and why."""


class Observer(Protocol):
    """Told how a run goes, on its main process; losses by name and frame count, as in ``{"ce_16": 1.2}``."""

    def step(self, epoch: int, step: int, losses: dict[str, float], lr: float) -> None: ...

    def epoch(self, epoch: int, rows: list[dict]) -> None: ...


class Trainer:
    """One run: its network, optimiser and schedule, where it is, and the folder it writes.

    ``config`` is resolved (:meth:`Config.resolved`); ``train`` and ``val`` are sources (:mod:`trainers.data`).
    """

    def __init__(self, config: Config, train, val, observer: Observer | None = None):
        self.config, self.train, self.val, self.observer = config, train, val, observer
        self.notes: list[str] = []
        """what to tell the user before it starts"""
        optim, machine = config.optim, config.machine
        self.device = choose_device(distributed.start(machine.device))
        self.dtype = choose_precision(machine.precision, self.device)
        workers = config.dataset.workers
        self.workers = default_workers(self.device) if workers is None else workers
        self.steps = len(train) * config.dataset.repeats // optim.batch_size
        if self.steps == 0:
            raise ValueError(f"{len(train)} training clips do not fill one batch of {optim.batch_size}")
        if optim.batch_size % world():
            raise ValueError(f"{world()} processes cannot share a batch of {optim.batch_size} evenly")
        torch.manual_seed(config.seed)
        self.stages = METHODS[config.method].stages(config)
        self.model = self._network()
        self.optimizer = create_optimizer(self.model, optim)
        self.schedule = create_schedule(self.optimizer, optim, self.steps)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.average = None
        if optim.ema:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(optim.ema))
        self.progress = Progress()
        torch.manual_seed(config.seed + rank())  # dropout differs between processes

    def _network(self) -> nn.Module:
        config = self.config
        model = METHODS[config.method].network(config, len(self.train.classes))
        if config.network.init:
            self.notes.append(str(ffn.load_pretrained(model, config.network.init)))
        preprocess = model.spec.preprocess
        if config.dataset.size:
            scale = config.dataset.size / preprocess.size
            resize = round(preprocess.resize * scale)
            preprocess = replace(preprocess, size=config.dataset.size, resize=resize)
        if config.dataset.sampling:
            preprocess = replace(preprocess, sampling=config.dataset.sampling)
        if (side := config.dataset.train_size or 1) > preprocess.resize:
            raise ValueError(
                f"train_size {side} is more than the {preprocess.resize} pixels of a resized clip: "
                "give a smaller --train-size"
            )
        model.spec = replace(model.spec, classes=tuple(self.train.classes), preprocess=preprocess)
        if config.optim.sync_norm:
            distributed.synchronise_norms(model)
        channels_last(model).to(self.device)
        if config.machine.compile:
            for branch in getattr(model, "branches", {"": model}).values():
                branch.compile()
        return model

    @property
    def evaluated(self) -> nn.Module:
        """What is validated and saved: the network, or the moving average of its weights."""
        return self.average.module if self.average else self.model

    @property
    def train_preprocess(self) -> Preprocess:
        """How training clips are prepared, before they are augmented."""
        preprocess = self.model.spec.preprocess
        return replace(preprocess, size=self.config.dataset.train_size or preprocess.size)

    @property
    def parts(self) -> dict:
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        parts |= {"scaler": self.scaler}
        return parts | ({"average": self.average} if self.average else {})

    def save(self) -> None:
        generators = gather(generator_state())
        if is_main():
            save_state(self.config.out / "last.pt", self.progress, generators, **self.parts)

    def resume(self) -> None:
        """Go on from OUT/last.pt; raises ValueError if it is damaged or of another run."""
        self.progress, generators = load_state(self.config.out / "last.pt", self.device, **self.parts)
        if len(generators) == world():
            restore_generators(generators[rank()])
        else:
            log.warning("saved by %d processes, resumed by %d: dropout differs", len(generators), world())

    def fit(self) -> None:
        """Train to the last epoch. Raises Stopped, its state saved, when SIGINT or SIGTERM asks for it."""
        progress, patience = self.progress, self.config.optim.patience
        with StopRequest() as stop:
            while progress.epoch < self.config.optim.epochs:
                if patience and progress.epoch - progress.best_epoch >= patience:
                    log.info("no better mean accuracy for %d epochs: stopped early", patience)
                    break
                started = time.monotonic()
                self._train_epoch(stop)
                self.save()  # validation may take longer than a run that is stopped is given
                self._record(self._validate(), time.monotonic() - started)
                progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, {}
                self.save()

    def _stage(self) -> tuple[Stage, bool]:
        """The stage of this epoch, and whether it begins with it."""
        first = 0
        for stage in self.stages:
            if self.progress.epoch < first + stage.epochs:
                return stage, self.progress.epoch == first
            first += stage.epochs
        raise AssertionError("the stages end before the run does")

    def _train_epoch(self, stop: StopRequest) -> None:
        config, progress = self.config, self.progress
        stage, begins = self._stage()
        if begins and progress.step == 0:
            for network in dict.fromkeys((self.model, self.evaluated)):  # one and the same without an average
                stage.begin(network)
        self.model.train()
        if config.optim.partial_bn:
            freeze_norms(self.model)
        title = f"epoch {progress.epoch + 1}/{config.optim.epochs}"
        saved, bad = time.monotonic(), 0
        with tqdm(
            self._batches(stage.task),
            title,
            self.steps,
            initial=progress.step,
            unit="step",
            leave=False,
            disable=not is_main(),
        ) as bar:
            for batch in bar:
                bad += len(batch.failures)
                for failure in batch.failures:
                    log.warning("left out: %s", failure)
                due = is_main() and time.monotonic() - saved > 60 * config.machine.save_minutes
                empty, stopping, saving = total([len(batch.labels) == 0, bool(stop.signal), due], self.device)
                losses = {} if empty else self.step(stage.task, batch)
                progress.step += 1
                progress.add(losses)
                bar.set_postfix_str(" ".join(f"{k} {v:.2f}" for k, v in progress.mean_losses.items()))
                if self.observer and is_main() and losses:
                    lr = self.schedule.get_last_lr()[0]
                    self.observer.step(progress.epoch + 1, progress.step, losses, lr)
                if stopping or saving:
                    self.save()
                    saved = time.monotonic()
                if stopping:
                    raise Stopped(stop.signal or signal.SIGTERM)  # it may have reached another process
        if all_bad := int(total([bad], self.device)[0]):
            log.warning("%d training clips could not be read and took no part", all_bad)

    def _batches(self, task: Task) -> Iterator[Batch]:
        config, progress = self.config, self.progress
        clips = Clips(
            self.train,
            task.frames,
            self.train_preprocess,
            config.seed,
            progress.epoch,
            augment=config.dataset.augment,
            flip=config.dataset.flip,
        )
        repeats = config.dataset.repeats
        size = config.optim.batch_size
        return train_batches(clips, size, self.workers, progress.step, rank(), world(), repeats)

    def step(self, task: Task, batch: Batch) -> dict[str, float]:
        """One optimiser step on uint8 clips; the losses by name and frame count, as in ``{"ce_16": 1.2}``."""
        draws = (self.config.seed, self.progress.epoch, self.progress.step)
        clips, labels = self._to_device(batch, np.random.default_rng((*draws, 0)))
        self.optimizer.zero_grad(set_to_none=True)
        losses = defaultdict(float)
        for share, part, part_labels in self._parts(clips, labels):
            rng = np.random.default_rng((*draws, 1))  # the same for every part
            for term in task.losses(self._forward, part, part_labels, rng):
                self.scaler.scale(term.total * share).backward()
                for name, loss in term.losses.items():
                    losses[f"{name}_{term.frames}"] += loss.detach() * share
        names, values = list(losses), [value.item() for value in losses.values()]
        losses = {n: v / world() for n, v in zip(names, total(values, self.device), strict=True)}
        if not all(map(math.isfinite, losses.values())):
            self._refuse(losses, batch)
        average_gradients(self.model.parameters())
        if self.config.optim.clip_norm:
            self.scaler.unscale_(self.optimizer)  # or scaled gradients would be clipped, or never
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.model)
        return losses

    def _to_device(self, batch: Batch, rng: np.random.Generator) -> tuple[dict[int, Tensor], Tensor]:
        """Normalised clips and labels on the device, blended if the run asks for it."""
        normalise, dataset = self.model.spec.preprocess.normalise, self.config.dataset
        clips = {n: normalise(clip.to(self.device, non_blocking=True)) for n, clip in batch.clips.items()}
        labels = batch.labels.to(self.device, non_blocking=True)
        if dataset.mixup or dataset.cutmix:
            clips, labels = mix(clips, labels, len(self.train.classes), dataset.mixup, dataset.cutmix, rng)
        return clips, labels

    def _parts(self, clips: dict[int, Tensor], labels: Tensor) -> Iterator[tuple[float, dict, Tensor]]:
        """The batch in ``accumulate`` parts, each with its share of the whole."""
        pieces = {n: clip.chunk(self.config.optim.accumulate) for n, clip in clips.items()}
        for i, part in enumerate(labels.chunk(self.config.optim.accumulate)):
            yield len(part) / len(labels), {n: piece[i] for n, piece in pieces.items()}, part

    def _forward(self, clip: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.model(clip)

    def _refuse(self, losses: dict[str, float], batch: Batch) -> None:
        where = f"step {self.progress.step + 1} of epoch {self.progress.epoch + 1}"
        names = ", ".join(self.train.name(i) for i in batch.indices[:4].tolist())
        more = ", ..." if len(batch.indices) > 4 else ""
        raise TrainingError(
            f"the loss is not finite at {where} ({losses}; clips {names}{more}); "
            "OUT/last.pt is from before: resume with --clip-norm 20 or --precision fp32, or start anew with a "
            "lower --lr"
        )

    def _validate(self) -> Outcome:
        optim = self.config.optim
        size = max(1, optim.batch_size // world())
        return evaluate(self.evaluated, self.val, self.config.frames, size, self.workers, "validating")

    def _record(self, outcome: Outcome, seconds: float) -> None:
        """Metrics, the logged line, and the best checkpoint: by mean accuracy over the frequencies."""
        progress, out, epoch = self.progress, self.config.out, self.progress.epoch + 1
        losses = progress.mean_losses
        mean = sum(outcome.accuracy.values()) / len(outcome.accuracy)
        better = mean > progress.best
        if better:
            progress.best, progress.best_epoch = mean, epoch
        if not is_main():
            return
        rows = self._rows(outcome, losses, seconds)
        progress.history += rows
        report.write_rows(out / "metrics.csv", progress.history)
        if better:
            config = self.config
            notes = {"epoch": epoch, "seed": config.seed, "data": config.dataset.data, "method": config.method}
            ffn.save(self.evaluated, out / "best.safetensors", **notes)
        if self.observer:
            self.observer.epoch(epoch, rows)
        left = seconds * (self.config.optim.epochs - epoch) / 60
        log.info(
            "epoch %d/%d  %s  top-1 %s  %.0f s, about %.0f min left",
            epoch,
            self.config.optim.epochs,
            "  ".join(f"{name} {value:.3f}" for name, value in losses.items()),
            "  ".join(f"{count}F {top1:.1f}%" for count, top1 in outcome.accuracy.items()),
            seconds,
            left,
        )

    def _rows(self, outcome: Outcome, losses: dict[str, float], seconds: float) -> list[dict]:
        """The epoch's rows of metrics.csv: one for each frame count that was trained or validated."""
        accuracy = outcome.accuracy
        trained = {int(name.rpartition("_")[2]) for name in losses}
        return [
            {
                "epoch": self.progress.epoch + 1,
                "frames": count,
                "ce": losses.get(f"ce_{count}", ""),
                "kl": losses.get(f"kl_{count}", ""),
                "top1": round(accuracy[count], 3) if count in accuracy else "",
                "top5": round(outcome.top(5, count), 3) if count in accuracy else "",
                "gap": round(max(accuracy.values()) - min(accuracy.values()), 3),
                "lr": self.schedule.get_last_lr()[0],
                "seconds": round(seconds, 1),
            }
            for count in sorted(trained | accuracy.keys())
        ]
