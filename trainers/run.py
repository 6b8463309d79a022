"""Train a network: ``python -m trainers.run --model tsm_tiny --data motion --method ffn --out DIR``"""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path

import tyro

import ffn
from ffn.checkpoint import write_atomically
from trainers import report
from trainers.config import Config
from trainers.data import create_source
from trainers.evaluate import COUNTS, evaluate
from trainers.jobs.record import Recorder
from trainers.loop import Trainer, TrainingError
from trainers.state import Stopped


def run(config: Config) -> None:
    """Train as ``config`` says, from the start or from OUT/last.pt, then measure over frame counts."""
    config.check()
    size = config.size or ffn.create_backbone(config.model, 2).spec.preprocess.size
    options = {"size": size, "cache": config.cache}
    train = create_source(config.data, "train", clips=config.clips, **options)
    val = create_source(config.data, "val", clips=config.val_clips, **options)
    trainer = Trainer(config, train, val)
    if config.resume:
        trainer.resume()
    else:
        write_atomically(config.out / "config.json", lambda partial: partial.write_text(config.to_json()))
    try:
        trainer.fit()
    except Stopped as stopped:
        trainer.recorder.stopped(stopped.signal)
        raise
    best = ffn.load(config.out / "best.safetensors").to(trainer.device)
    accuracy = evaluate(best, val, COUNTS, config.batch_size, trainer.workers, "measuring").accuracy
    name = f"{config.model} {config.method} {'/'.join(map(str, config.frames))}"
    print(report.markdown({name: accuracy}))
    report.write_results(config.out, name, config.frames, accuracy)
    trainer.recorder.end({})
    print(f"Everything is in {config.out}: best.safetensors, metrics.csv, results.json, results.png")


def parse(arguments: list[str]) -> Config:
    """The configuration a command line asks for; with --resume, the one stored in the run's folder."""
    auto = arguments[-2:] == ["--resume", "auto"]
    config = tyro.cli(Config, args=arguments[:-2] if auto else arguments, prog="python -m trainers.run")
    started = (config.out / "last.pt").exists()
    config = replace(config, resume=config.resume or (auto and started))
    if not config.resume:
        if started:
            raise ValueError(f"{config.out} holds a run already: add --resume to go on, or name another --out")
        return config
    if not started:
        raise ValueError(f"{config.out} holds no run to resume: leave --resume away to start one")
    stored = Config.from_json((config.out / "config.json").read_text())
    return replace(stored, out=config.out, resume=True)


def main(arguments: list[str]) -> int:
    out = Path(".")
    try:
        config = parse(arguments)
        out = config.out
        run(config)
    except Stopped:
        print(
            f"Stopped; nothing is lost. Go on with: python -m trainers.run --out {out} --resume",
            file=sys.stderr,
        )
        return 75
    except (ValueError, TrainingError, OSError) as error:
        print(f"trainers.run: {error}", file=sys.stderr)
        Recorder().fail(str(error))
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
