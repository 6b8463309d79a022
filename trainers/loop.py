"""The training loop: fit, one epoch, one step."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
from torch import nn
from tqdm import tqdm

import ffn
from ffn.device import choose_device, choose_precision
from trainers import report
from trainers.config import Config
from trainers.data.clips import Clips, default_workers, train_batches
from trainers.evaluate import Outcome, evaluate
from trainers.methods import METHODS, Stage, Task
from trainers.state import Progress, Stopped, StopRequest, load_state, save_state


class TrainingError(RuntimeError):
    """The run cannot go on; the message says at which step and why."""


class Trainer:
    """One run: its network, optimiser and schedule, where it is, and the folder it writes."""

    def __init__(self, config: Config, train, val):
        self.config, self.train, self.val = config, train, val
        self.device = choose_device(config.device)
        self.dtype = choose_precision(config.precision, self.device)
        self.workers = default_workers(self.device) if config.workers is None else config.workers
        self.steps = len(train) // config.batch_size
        if self.steps == 0:
            raise ValueError(f"{len(train)} training clips do not fill one batch of {config.batch_size}")
        torch.manual_seed(config.seed)
        method = METHODS[config.method]
        self.stages = method.stages(config)
        self.model = _channels_last(
            self._describe(method.create(config.model, len(train.classes), config.frames))
        )
        self.model.to(self.device)
        self.optimizer = torch.optim.AdamW(_groups(self.model, config.weight_decay), lr=config.lr)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            config.lr,
            total_steps=config.epochs * self.steps,
            pct_start=0.25,
            cycle_momentum=False,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.progress = Progress()

    def _describe(self, model: nn.Module) -> nn.Module:
        """Write the class names and the size of the clips into the network's spec."""
        preprocess = model.spec.preprocess
        if self.config.size:
            scale = self.config.size / preprocess.size
            preprocess = replace(preprocess, size=self.config.size, resize=round(preprocess.resize * scale))
        model.spec = replace(model.spec, classes=tuple(self.train.classes), preprocess=preprocess)
        return model

    @property
    def parts(self) -> dict:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }

    def save(self) -> None:
        save_state(self.config.out / "last.pt", self.progress, **self.parts)

    def resume(self) -> None:
        self.progress = load_state(self.config.out / "last.pt", self.device, **self.parts)

    def fit(self) -> None:
        """Train to the last epoch. Raises Stopped, its state saved, when SIGINT or SIGTERM asks for it."""
        with StopRequest() as stop:
            while self.progress.epoch < self.config.epochs:
                started = time.monotonic()
                self._train_epoch(stop)
                outcome = self._validate()
                self._record(outcome, time.monotonic() - started)
                self.progress.epoch, self.progress.step, self.progress.losses = self.progress.epoch + 1, 0, {}
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
            stage.begin(self.model)
        clips = Clips(self.train, stage.task.frames, self.model.spec.preprocess, config.seed, progress.epoch)
        batches = train_batches(clips, config.batch_size, self.workers, progress.step)
        title = f"epoch {progress.epoch + 1}/{config.epochs}"
        self.model.train()
        with tqdm(batches, title, self.steps, initial=progress.step, unit="step", leave=False) as bar:
            for batch in bar:
                losses = self.step(stage.task, batch.clips, batch.labels)
                progress.step += 1
                for name, value in losses.items():
                    progress.losses[name] = progress.losses.get(name, 0.0) + value
                bar.set_postfix_str(
                    " ".join(f"{k} {v / progress.step:.2f}" for k, v in progress.losses.items())
                )
                if stop.signal:
                    self.save()
                    raise Stopped(stop.signal)

    def step(self, task: Task, clips: dict[int, torch.Tensor], labels: torch.Tensor) -> dict[str, float]:
        """One optimiser step on a batch of uint8 clips; the losses by name, as in ``{"ce_16": 1.2}``."""
        normalise = self.model.spec.preprocess.normalise
        clips = {count: normalise(clip.to(self.device, non_blocking=True)) for count, clip in clips.items()}
        labels = labels.to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        losses = {}
        for term in task.losses(self._forward, clips, labels):
            self.scaler.scale(term.loss).backward()
            losses[f"{term.name}_{term.frames}"] = term.loss.detach()
        losses = {name: value.item() for name, value in losses.items()}
        if not all(map(math.isfinite, losses.values())):
            where = f"step {self.progress.step + 1} of epoch {self.progress.epoch + 1}"
            raise TrainingError(f"the loss is not finite at {where}: {losses}; try a lower --lr")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return losses

    def _forward(self, clip: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.model(clip)

    def _validate(self) -> Outcome:
        return evaluate(
            self.model, self.val, self.config.frames, self.config.batch_size, self.workers, "validating"
        )

    def _record(self, outcome: Outcome, seconds: float) -> None:
        """Metrics, the printed line, and the best checkpoint: by mean accuracy over the frequencies."""
        progress, out = self.progress, self.config.out
        losses = {name: total / max(progress.step, 1) for name, total in progress.losses.items()}
        for count, top1 in outcome.accuracy.items():
            progress.history.append(
                {
                    "epoch": progress.epoch + 1,
                    "frames": count,
                    "loss": next((v for name, v in losses.items() if name.endswith(f"_{count}")), ""),
                    "top1": round(top1, 3),
                    "top5": round(outcome.top(5, count), 3),
                    "lr": self.schedule.get_last_lr()[0],
                    "seconds": round(seconds, 1),
                }
            )
        report.write_metrics(out / "metrics.csv", progress.history)
        mean = sum(outcome.accuracy.values()) / len(outcome.accuracy)
        if mean > progress.best:
            progress.best = mean
            ffn.save(self.model, out / "best.safetensors", epoch=str(progress.epoch + 1))
        left = seconds * (self.config.epochs - progress.epoch - 1) / 60
        tqdm.write(
            f"epoch {progress.epoch + 1}/{self.config.epochs}  "
            + "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            + "  top-1 "
            + "  ".join(f"{count}F {top1:.1f}%" for count, top1 in outcome.accuracy.items())
            + f"  {seconds:.0f} s, about {left:.0f} min left"
        )


def _groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameters with weight decay and, for norms, biases and alterations, without."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _channels_last(model: nn.Module) -> nn.Module:
    """Lay convolution weights out channels last, in place, so that branches keep sharing them."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
    return model
