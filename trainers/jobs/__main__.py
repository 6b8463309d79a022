"""The queue from the terminal: ``python -m trainers.jobs add --gpus 1 -- --model tsm_tiny --out runs/a``"""

from __future__ import annotations

import argparse
import sys

from trainers.jobs.database import DatabaseDown
from trainers.jobs.store import Store


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.act(Store(), options)
    except (ValueError, KeyError, DatabaseDown) as error:
        print(f"trainers.jobs: {error.args[0]}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainers.jobs", description="See and change the queue of jobs."
    )
    commands = parser.add_subparsers(required=True, metavar="add | list | stop | resume")
    add = commands.add_parser("add", help="put a run in the queue; after --, the options of trainers.run")
    add.add_argument("--gpus", type=int, default=0, help="GPUs, per node; 0: the CPU (default)")
    add.add_argument("--nodes", type=int, default=1, help="nodes of the cluster")
    add.add_argument("--cluster", default="local", help="local (default) or slurm")
    add.add_argument("run", nargs="+", help="options of trainers.run")
    add.set_defaults(act=_add)
    commands.add_parser("list", help="the jobs, newest first").set_defaults(act=_list)
    for name, text in (
        ("stop", "ask a job to save and stop"),
        ("resume", "go on with a failed or cancelled job"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("job", type=int)
        command.set_defaults(act=lambda store, options, name=name: _change(store, name, options.job))
    return parser


def _add(store: Store, options: argparse.Namespace) -> None:
    from trainers.run import parse  # PyTorch, which the other commands do not wait for

    job = store.add(parse(options.run), devices=options.gpus, nodes=options.nodes, cluster=options.cluster)
    print(f"job {job.id} is in the queue; python -m trainers.worker runs it")


def _list(store: Store, options: argparse.Namespace) -> None:
    for job in store.search():
        best = "" if job.best is None else f"  {job.best:.1f} %"
        epochs = f"epoch {job.epoch}/{job.epochs}"
        print(f"{job.id:4}  {job.state:10} {epochs:14} {job.out}{best}{'  ' + job.error if job.error else ''}")


def _change(store: Store, name: str, job_id: int) -> None:
    store.get(job_id)  # KeyError, where there is no such job
    (store.cancel if name == "stop" else store.resume)(job_id)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
