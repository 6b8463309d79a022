"""The paper's experiment at a size anyone can run: ``python -m trainers.reproduce [--quick]``

Trains on Motion what :mod:`trainers.experiment` lists, as ordinary runs (those that are done are kept, one that
was cut off goes on), and writes the paper's tables and figures in these numbers after every run.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from trainers.config import Config
from trainers.experiment import FULL, NETWORKS, QUICK, Run, runs
from trainers.results import Results, write


def train(run: Run, out: Path, settings: dict, threads: int) -> str | None:
    """Train ``run`` in a process of its own unless it is done; what went wrong, or None."""
    folder = out / run.name
    if (folder / "results.json").exists():
        return None
    chosen = settings | run.settings | {"model": run.model, "seed": run.seed, "out": folder}
    if run.after:
        start = out / f"{run.model}-{run.after}-seed{run.seed}" / "best.safetensors"
        if not start.exists():
            return f"{run.name} starts from {start}, which is not there"
        chosen["init"] = str(start)
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


def main(
    out: Path = Path("runs/reproduce"),
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
        out: folder of the runs, results.md, results.csv and figures.
        only: networks to train.
        seeds: seeds of the main table; the other tables use the first.
        quick: a few clips and one epoch: every table in minutes, with numbers that mean nothing.
        jobs: runs at a time; default: one per core, up to 4.
        cache: folder that keeps rendered clips (10 GB for the full size): quicker from the second run on.
        tables: train nothing; write the tables of what is there.
    """
    unknown = set(only) - NETWORKS.keys()
    if unknown or not seeds:
        raise ValueError(f"--only takes {', '.join(NETWORKS)}, and --seeds at least one number")
    settings = (QUICK if quick else FULL) | {"cache": cache, "workers": 1}
    plan = list(runs(seeds[:1] if quick else seeds, only))
    cores = os.cpu_count() or 1
    jobs = jobs or min(4, cores)
    about = {"machine": f"{cores} cores, {platform.machine()}", "date": str(date.today())}
    about |= {"PyTorch": torch.__version__, "seeds": list(seeds), "settings": QUICK if quick else FULL}
    problems = [] if tables else _train_all(plan, out, settings, jobs, max(1, cores // jobs), about)
    results = Results.read(out, plan)
    write(out, results, about)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"The tables of {len(results.runs)} of {len(plan)} runs are in {out / 'results.md'}")
    if problems:
        raise ValueError(f"{len(problems)} runs did not end well; start again to go on with them")


def _train_all(plan: list[Run], out: Path, settings: dict, jobs: int, threads: int, about: dict) -> list[str]:
    """Runs that start from another's checkpoint wait for all others before them in the plan."""
    problems = []
    first = [run for run in plan if not run.after]
    with tqdm(total=len(plan), unit="run") as bar:
        for batch in (first, [run for run in plan if run.after]):
            with ThreadPoolExecutor(jobs) as pool:
                for problem in pool.map(lambda run: train(run, out, settings, threads), batch):
                    problems += [problem] if problem else []
                    bar.update()
                    write(out, Results.read(out, plan), about)
    return problems


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m trainers.reproduce")
    except (ValueError, OSError) as error:
        print(f"trainers.reproduce: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
