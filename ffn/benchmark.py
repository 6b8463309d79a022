"""Networks compared: plain, frame-flexible and deployed, at several frame counts; as rows, table and plot."""

from __future__ import annotations

import csv
import gc
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import nn

from ffn.checkpoint import write_atomically
from ffn.deploy import deploy
from ffn.fold import fold
from ffn.measure import count_parameters, gflops, latency, peak_memory
from ffn.registry import create_backbone, create_model


@dataclass(frozen=True)
class Row:
    """What one form of a network costs for one clip; see :mod:`ffn.measure` for what the numbers mean.

    The middle half of the runs took from ``low_ms`` to ``high_ms``; ``peak_mb`` is None where nothing tells.
    """

    network: str
    form: str
    frames: int
    size: int
    parameters: int
    gflops: float
    median_ms: float
    low_ms: float
    high_ms: float
    peak_mb: float | None


def benchmark(
    name: str,
    frames: Iterable[int] | None = None,
    *,
    num_classes: int = 174,
    size: int | None = None,
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
    device: str | torch.device = "cpu",
    repeats: int = 20,
) -> Iterator[Row]:
    """Measure the network called ``name``, with fresh weights, on single clips; a row as soon as it is there.

    Args:
        frames: frame counts; by default the network's training frequencies.
        size: of the frames in pixels; by default the network's own.
        dtype, compile: of the deployed form, see :func:`ffn.deploy.deploy`; the others are eager float32.

    Raises:
        ValueError: if there is no such network, or a count or size is below 1.
    """
    plain = create_backbone(name, num_classes).to(device).eval()
    flexible = create_model(name, num_classes).to(device).eval()
    counts = list(flexible.frames if frames is None else frames)
    size = flexible.spec.preprocess.size if size is None else size
    if min(size, repeats, *counts) < 1:
        raise ValueError("frame counts, size and repeats must be at least 1")
    deployed = " ".join(["deployed", *[str(dtype)[6:]] * (dtype != torch.float32), *["compiled"] * compile])
    for count in counts:
        clip = torch.rand(1, 3, count, size, size, device=device)

        def measured(form: str, module: nn.Module, readable: nn.Module, clip=clip) -> Row:
            time = latency(module, clip, repeats)
            cost = count_parameters(readable), gflops(readable, clip.shape[2], size)
            memory = peak_memory(module, clip)
            return Row(name, form, clip.shape[2], size, *cost, time.median, time.low, time.high, memory)

        yield measured("plain", plain, plain)
        yield measured("frame-flexible", flexible, flexible)
        # Packed or compiled layers do not tell their multiply-adds: those they were made from do.
        yield measured(deployed, deploy(flexible, count, dtype, compile), fold(flexible.branch(count)))
        gc.collect()


def markdown(rows: Iterable[Row]) -> str:
    """A Markdown table: latency as the median, spread as the range of the middle half of the runs."""
    lines = [
        "| network | form | frames | parameters (M) | GFLOPs | latency (ms) | spread (ms) | peak memory (MB) |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        memory = "n/a" if row.peak_mb is None else f"{row.peak_mb:.0f}"
        lines.append(
            f"| {row.network} | {row.form} | {row.frames} | {row.parameters / 1e6:.2f} | {row.gflops:.3g} | "
            f"{row.median_ms:.1f} | {row.low_ms:.1f} to {row.high_ms:.1f} | {memory} |"
        )
    return "\n".join(lines)


def write(folder: str | Path, rows: list[Row]) -> None:
    """benchmark.csv and benchmark.png in ``folder``."""
    folder = Path(folder)
    write_atomically(folder / "benchmark.csv", lambda partial: _write_csv(partial, rows))
    write_atomically(folder / "benchmark.png", lambda partial: _plot(partial, rows))


def _write_csv(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _plot(path: Path, rows: list[Row]) -> None:
    """Latency over frame counts: a panel per network, a line per form, bars over the middle half."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row.network for row in rows))
    figure, panels = plt.subplots(
        1, len(names), figsize=(1 + 4 * len(names), 3.6), dpi=150, squeeze=False, layout="tight"
    )
    for axes, name in zip(panels[0], names, strict=True):
        for form in dict.fromkeys(row.form for row in rows):
            line = [row for row in rows if (row.network, row.form) == (name, form)]
            medians = [row.median_ms for row in line]
            below = [row.median_ms - row.low_ms for row in line]
            above = [row.high_ms - row.median_ms for row in line]
            axes.errorbar(
                [row.frames for row in line], medians, (below, above), marker="o", capsize=3, label=form
            )
        counts = sorted({row.frames for row in rows if row.network == name})
        axes.set(title=name, xlabel="frames", ylabel="latency (ms)", xticks=counts, ylim=(0, None))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].legend(frameon=False)
    figure.savefig(path, format="png")
    plt.close(figure)
