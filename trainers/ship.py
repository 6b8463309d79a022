"""Make a run's best checkpoint one to give away: ``python -m trainers.ship RUN assets/NAME.safetensors``

Half precision, with a card beside it (NAME.md): what it is, how accurate the very file is at every frame count,
the commands that trained it and the one that measures it again.
"""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import date
from pathlib import Path

import torch
import tyro

import ffn
from ffn.checkpoint import read_metadata, write_atomically
from ffn.device import choose_device
from ffn.measure import count_parameters, gflops
from trainers import report
from trainers.config import Config
from trainers.evaluate import evaluate, sweep
from trainers.outcome import Outcome
from trainers.run import sources

BESIDE = {"out", "cache", "workers", "data_root"}  # of the machine, not of the network


def ship(run: Path, out: Path, clips: int | None = None) -> None:
    """Write the best checkpoint of the folder ``run`` to ``out``, and its card, measured on ``clips`` clips.

    Raises:
        ValueError: if ``run`` holds no finished run, ``out`` does not end in .safetensors, or there is less
            than one clip.
    """
    if clips is not None and clips < 1:
        raise ValueError(f"clips must be at least 1, got {clips}")
    if out.suffix != ".safetensors":
        raise ValueError(f"{out} must end in .safetensors")
    if not (run / "results.json").exists():
        raise ValueError(f"{run} holds no finished run: train it to its end first")
    config = Config.from_json((run / "config.json").read_text())
    config = config.with_fields({"val_clips": clips or config.dataset.val_clips})
    best = run / "best.safetensors"
    notes = {k: v for k, v in read_metadata(best).items() if k not in ("format", "spec")}
    trained = date.fromtimestamp(best.stat().st_mtime)
    ffn.save(ffn.load(best), out, dtype=torch.half, **notes, trained=str(trained))
    model = ffn.load(out)
    counts = sorted({*sweep(config.frames), *config.frames})
    _, val = sources(config)
    outcome = evaluate(model.to(choose_device("auto")), val, counts, config.optim.batch_size)
    model.to("cpu")
    text = card(out, model, outcome, config, str(trained), run)
    write_atomically(out.with_suffix(".md"), lambda partial: partial.write_text(text, encoding="utf-8"))


def card(path: Path, model, outcome: Outcome, config: Config, trained: str, run: Path) -> str:
    """The Markdown that stands beside the checkpoint ``path``."""
    counts, size = list(outcome.probabilities), model.spec.preprocess.size
    kind = "one frame-flexible network" if model.spec.flexible else "a plain network"
    frames = "/".join(map(str, model.spec.frames))
    rows = [
        ["frames", *map(str, counts)],
        ["top-1 (%)", *(f"{top1:.1f}" for top1 in outcome.accuracy.values())],
        ["top-5 (%)", *(f"{outcome.top(5, count):.1f}" for count in counts)],
        ["GFLOPs", *(f"{gflops(model, count, size):.3f}" for count in counts)],
    ]
    again = f"python -m trainers.evaluate {path} --frames {' '.join(map(str, counts))} --no-costs"
    dataset = config.dataset
    again += f" --clips {dataset.val_clips}" if dataset.val_clips else ""
    again += f" --data {dataset.data} --data-root DIR" if dataset.data != "motion" else ""
    again += f" --fold {dataset.fold}" if dataset.fold != 1 else ""
    trained_by = "\n".join(commands(run))
    return f"""# {path.stem}

`{config.model}`, {kind}, trained at {frames} frames for the {model.spec.num_classes} classes of
`{config.dataset.data}`: {count_parameters(model) / 1e6:.3f}M parameters in half precision,
{path.stat().st_size / 1e6:.1f} MB, clips of {size} x {size} pixels.

{report.table(rows)}

On {len(outcome.labels)} validation clips, one view, {platform.machine()}, PyTorch {torch.__version__}:

```bash
{again}
```

Trained on {trained}, seed {config.seed}:

```bash
{trained_by}
```
"""


def commands(run: Path) -> list[str]:
    """The commands that trained ``run``: first those of the run, if any, that it started from."""
    config = Config.from_json((run / "config.json").read_text())
    kept = {name: value for name, value in config.flat().items() if name not in BESIDE}
    start = Path(config.network.init or "")
    trained = config.network.init and (start.parent / "config.json").exists()
    before = commands(start.parent) if trained else []
    out = f"runs/{run.name}"
    if before:
        kept["init"] = f"runs/{start.parent.name}/{start.name}"
    return [
        *before,
        shlex.join(["python", "-m", "trainers.run", *Config().with_fields(kept).command(), "--out", out]),
    ]


def main(run: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path], clips: int | None = None) -> None:
    """Write a run's best checkpoint in half precision, with a card that says how good it is.

    Args:
        run: folder of a finished run.
        out: file to write, NAME.safetensors; the card is NAME.md beside it.
        clips: validation clips to measure it on; default: those of the run.
    """
    ship(run, out, clips)
    print(f"{out} and {out.with_suffix('.md')} are written")


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m trainers.ship")
    except (ValueError, OSError) as error:
        print(f"trainers.ship: {error}", file=sys.stderr)
        sys.exit(2)
