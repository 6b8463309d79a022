"""The paper's experiment at a size anyone can run: ``python -m trainers.reproduce [--quick]``

Trains on Motion what :mod:`trainers.experiment` lists, as ordinary runs (those that are done are kept, one that
was cut off goes on), and writes the paper's tables and figures in these numbers after every run.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from datetime import date
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from ffn import load
from ffn.checkpoint import write_atomically
from ffn.measure import count_parameters, gflops
from trainers.config import Config
from trainers.data import create_source
from trainers.evaluate import COUNTS, evaluate
from trainers.experiment import FULL, NETWORKS, QUICK, START, Run, runs
from trainers.outcome import together
from trainers.results import Results, write


def train(run: Run, out: Path, cache: Path, threads: int) -> str | None:
    """Train ``run`` in a process of its own unless it is done; what went wrong, or None."""
    folder = out / run.name
    if (folder / "results.json").exists():
        return None
    chosen = run.settings | {"model": run.model, "seed": run.seed, "out": folder, "cache": cache, "workers": 1}
    needed = [out / name / "best.safetensors" for name in run.needs]
    missing = [path for path in needed if not path.exists()]
    if missing:
        return f"{run.name} needs {missing[0]}, which is not there"
    if run.members:
        return _ensemble(needed, folder, run.settings.get("val_clips"), cache)
    if run.after:
        chosen["init"] = str(needed[0])
    command = [
        sys.executable,
        "-m",
        "trainers.run",
        *Config().with_fields(chosen).command(),
        "--resume",
        "auto",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=environment)
    return (
        None if done.returncode == 0 else f"{run.name} ended with code {done.returncode}: see {folder}/log.txt"
    )


def _ensemble(checkpoints: list[Path], folder: Path, clips: int | None, cache: Path) -> None:
    """Evaluate the mean prediction of ``checkpoints`` and write what a run writes of itself."""
    size = load(checkpoints[0]).spec.preprocess.size
    source = create_source("motion", "val", size=size, clips=clips, cache=cache)
    networks = [load(path) for path in checkpoints]
    outcomes = {model.spec.frames[0]: evaluate(model, source, COUNTS, bar=None) for model in networks}
    outcome = together(outcomes, lambda _: list(outcomes))
    work = {count: sum(gflops(model, count, size) for model in networks) for count in COUNTS}
    results = {
        "accuracy": outcome.accuracy,
        "top5": {count: outcome.top(5, count) for count in COUNTS},
        "gflops": work,
        "parameters": sum(map(count_parameters, networks)),
    }
    write_atomically(folder / "results.json", lambda partial: partial.write_text(json.dumps(results)))


def main(
    out: Path | None = None,
    only: tuple[str, ...] = tuple(NETWORKS),
    seeds: tuple[int, ...] = (0, 1, 2),
    quick: bool = False,
    jobs: int | None = None,
    cache: Path | None = None,
    tables: bool = False,
) -> None:
    """Train every network of the paper's tables on Motion and write the tables.

    Interrupted, it goes on where it was when started again; tables of what is there are written after each run.

    Args:
        out: folder of the runs, results.md, results.csv and figures; default: runs/reproduce or, quick,
            runs/reproduce-quick.
        only: networks to train.
        seeds: seeds of the main table; the other tables use the first.
        quick: a few clips and one epoch: every table in minutes, with numbers that mean nothing.
        jobs: runs at a time; default: one per core, up to 4.
        cache: folder that keeps the rendered clips for all runs (5 GB for the full size); default: OUT/clips.
        tables: train nothing; write the tables of what is there.
    """
    unknown = set(only) - NETWORKS.keys()
    if unknown or not seeds:
        raise ValueError(f"--only takes {', '.join(NETWORKS)}, and --seeds at least one number")
    out = out or Path("runs/reproduce-quick" if quick else "runs/reproduce")
    size = QUICK if quick else FULL
    plan = list(runs(seeds[:1] if quick else seeds, only, size))
    cores = os.cpu_count() or 1
    jobs = jobs or min(4, cores)
    about = {"machine": f"{cores} cores, {platform.machine()}", "date": str(date.today())}
    about |= {"PyTorch": torch.__version__, "settings": size.each, f"settings of {START!r}": size.start}
    problems = (
        [] if tables else _train_all(plan, out, cache or out / "clips", jobs, max(1, cores // jobs), about)
    )
    results = Results.read(out, plan)
    write(out, results, about)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"The tables of {len(results.runs)} of {len(plan)} runs are in {out / 'results.md'}")
    if problems:
        raise ValueError(f"{len(problems)} runs did not end well; start again to go on with them")


def _train_all(plan: list[Run], out: Path, cache: Path, jobs: int, threads: int, about: dict) -> list[str]:
    """Train ``jobs`` runs at a time, each after those it needs; what went wrong."""
    started: dict[str, Future] = {}

    def finish(run: Run) -> str | None:
        wait([started[name] for name in run.needs])  # all of them begun: the plan has them first
        return train(run, out, cache, threads)

    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(plan), unit="run") as bar:
        for run in plan:
            started[run.name] = pool.submit(finish, run)
        try:
            for done in as_completed(started.values()):
                done.result()
                bar.update()
                write(out, Results.read(out, plan), about)
        except BaseException:  # Ctrl-C: what runs has got it too, saves and ends; nothing else is begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [problem for done in started.values() if (problem := done.result())]


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m trainers.reproduce")
    except (ValueError, OSError) as error:
        print(f"trainers.reproduce: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
