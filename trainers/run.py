"""Train a network: ``python -m trainers.run --model tsm_tiny --data motion --method ffn --out DIR``

Several processes: ``torchrun --nproc-per-node=N -m trainers.run ...``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import tyro
from filelock import FileLock, Timeout
from tqdm.contrib.logging import logging_redirect_tqdm

import ffn
from ffn.checkpoint import write_atomically
from trainers import distributed, report
from trainers.config import Config, Machine
from trainers.data import create_source
from trainers.evaluate import evaluate, sweep
from trainers.jobs.record import Recorder
from trainers.loop import Trainer, TrainingError
from trainers.memory import use_huge_pages
from trainers.recipes import RECIPES
from trainers.state import STOPPED, Stopped

log = logging.getLogger("trainers")

# What may differ when a run goes on: where it runs, not what it learns.
MOVABLE = {field.name for field in fields(Machine)}
MOVABLE |= {"data_root", "cache", "workers", "max_bad", "accumulate", "clip_norm", "patience"}


def run(config: Config, recorder: Recorder) -> None:
    """Train as ``config`` (resolved) says, from the start or OUT/last.pt on, then measure over frame counts."""
    train, val = sources(config)
    trainer = Trainer(config, train, val, recorder)
    with _alone(config.out):
        _run(config, trainer, recorder)


def _run(config: Config, trainer: Trainer, recorder: Recorder) -> None:
    train, val = trainer.train, trainer.val
    if config.resume != "never":
        trainer.resume()
    if distributed.is_main():
        text = replace(config, resume="never").to_json()
        write_atomically(config.out / "config.json", lambda partial: partial.write_text(text))
    distributed.wait()
    with _logging(config.out / "run.log"):
        for line in [*trainer.notes, *_skipped(train, "training"), *_skipped(val, "validation")]:
            log.info(line)
        if distributed.is_main():
            recorder.begin(replace(config, resume="never"), trainer.steps)
        trainer.fit()
        _measure(config, trainer, val)
        if distributed.is_main():
            recorder.end()


def sources(config: Config) -> tuple:
    """The training and the validation clips of a run.

    Raises:
        ValueError, OSError: if the data set is not there or cannot be used.
    """
    dataset = config.dataset
    size = dataset.size or ffn.create_backbone(config.model, 2).spec.preprocess.size
    options = {"root": dataset.data_root, "size": size, "cache": dataset.cache, "seed": config.seed}
    options |= {"fold": dataset.fold, "max_bad": dataset.max_bad}
    train = create_source(dataset.data, "train", clips=dataset.clips, **options)
    return train, create_source(dataset.data, "val", clips=dataset.val_clips, **options)


def _skipped(source, kind: str) -> list[str]:
    skipped = getattr(source, "skipped", [])
    return [f"{len(skipped)} {kind} clips left out, which trainers.check found bad"] if skipped else []


def _measure(config: Config, trainer: Trainer, val) -> None:
    """The best checkpoint over frame counts: printed, and written as results.json, results.png and tables."""
    distributed.wait()
    best = ffn.load(config.out / "best.safetensors").to(trainer.device)
    counts = sorted({*sweep(config.frames), *config.frames})
    size = max(1, config.optim.batch_size // distributed.world())
    outcome = evaluate(best, val, counts, size, trainer.workers, "measuring")
    if not distributed.is_main():
        return
    name = f"{config.model} {config.method} {'/'.join(map(str, config.frames))}"
    paper = RECIPES[config.recipe].paper if config.recipe else None
    report.write_results(config.out, name, best, config.frames, outcome, trainer.progress.history, paper)
    rows = {name: outcome.accuracy} | ({"paper": paper} if paper else {})
    log.info("\n%s", report.markdown(rows))
    log.info("Everything is in %s: best.safetensors, metrics.csv, results.json, results.png ...", config.out)


def _logging(path: Path) -> logging_redirect_tqdm:
    """Log to the terminal, above its progress bar, and to ``path``; only the main process speaks."""
    log.handlers.clear()
    log.setLevel(logging.INFO if distributed.is_main() else logging.WARNING)
    log.addHandler(logging.StreamHandler(sys.stdout))
    if distributed.is_main():
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(file)
    return logging_redirect_tqdm([log])


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the run folder ``out``: two runs in it would write over each other's files."""
    if not distributed.is_main():  # which holds it for all
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(f"{out} is in use by another run: wait for it, or name another --out") from error


def parse(arguments: list[str]) -> Config:
    """The configuration a command line asks for, resolved; to go on with a run, the one stored in its folder.

    Raises:
        ValueError: with one sentence, for a field that cannot be, or a folder that does not suit.
    """
    arguments = _with_value(arguments)
    recipe = _value_of("--recipe", arguments)
    default = Config() if recipe is None else Config.from_recipe(recipe)
    config = _read(arguments, default)
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):  # torchrun starts the processes that failed anew
        config = replace(config, resume="auto")
    config = config.resolved()
    started = (config.out / "last.pt").exists()
    if config.resume == "never":
        if started:
            raise ValueError(
                f"{config.out} holds a run already: add --resume auto to go on, or name another --out"
            )
        return config
    if not started:
        if config.resume == "always":
            raise ValueError(f"{config.out} holds no run to resume: leave --resume away to start one")
        return replace(config, resume="never")
    stored = Config.from_json((config.out / "config.json").read_text())
    config = replace(_read(arguments, stored), out=config.out, resume="always")
    before, now = stored.flat(), config.flat()
    fixed = before.keys() - MOVABLE - {"out", "resume"}
    if refused := [f"--{n.replace('_', '-')}" for n in before if n in fixed and now[n] != before[n]]:
        raise ValueError(
            f"{config.out} was begun with another {', '.join(refused)}: leave that away to go on as it was, or "
            "start anew in another --out"
        )
    return config


def _read(arguments: list[str], default: Config) -> Config:
    """``default`` with what the command line asks for besides."""
    return tyro.cli(Config, args=arguments, default=default, prog="python -m trainers.run")


def _with_value(arguments: list[str]) -> list[str]:
    """``--resume`` alone means ``--resume always``."""
    for i, argument in enumerate(arguments):
        if argument == "--resume" and (i + 1 == len(arguments) or arguments[i + 1].startswith("-")):
            return [*arguments[: i + 1], "always", *arguments[i + 1 :]]
    return arguments


def _value_of(flag: str, arguments: list[str]) -> str | None:
    """What follows ``flag``, after a space or ``=``; None without the flag."""
    for i, argument in enumerate(arguments):
        name, joined, value = argument.partition("=")
        if name == flag:
            return value if joined else "".join(arguments[i + 1 : i + 2])
    return None


def _list_recipes() -> None:
    for name, recipe in RECIPES.items():
        figures = "  ".join(f"{count}F {top1:.2f}" for count, top1 in recipe.paper.items())
        print(f"{name:28} {figures}")


def main(arguments: list[str]) -> int:
    use_huge_pages()
    if "--list-recipes" in arguments:
        _list_recipes()
        return 0
    printing = "--print-config" in arguments
    arguments = [argument for argument in arguments if argument != "--print-config"]
    out, recorder = Path("."), Recorder()
    try:
        config = parse(arguments)
        if printing:
            print(config.to_json())
            return 0
        out = config.out
        run(config, recorder)
    except Stopped as stopped:
        if distributed.is_main():
            recorder.stopped(stopped.signal)
            print(
                f"Stopped; nothing is lost. Go on with: python -m trainers.run --out {out} --resume auto",
                file=sys.stderr,
            )
        return STOPPED
    except (ValueError, TrainingError, OSError) as error:
        print(f"trainers.run: {error}", file=sys.stderr)
        if distributed.is_main():
            recorder.fail(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except BaseException as error:  # a fault of ours, or no memory: the traceback is for the log
        if distributed.is_main():
            recorder.fail(" ".join(str(error).split()) or type(error).__name__)
        raise
    finally:
        distributed.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
