"""The library from the command line: ``python -m ffn --help``."""

from __future__ import annotations

import glob
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from tqdm import tqdm
from tyro.conf import FlagCreatePairsOff, Positional, arg

import ffn
from ffn import adaptive, measure
from ffn.benchmark import benchmark, markdown, write
from ffn.device import choose_device
from ffn.download import cache_folder, convert, download
from ffn.export import export
from ffn.released import load_any
from ffn.video import find_videos, preload

CheckpointArgument = Annotated[Path, Positional, arg(metavar="CHECKPOINT")]
OutArgument = Annotated[Path, Positional, arg(metavar="OUT")]

app = tyro.extras.SubcommandApp()


@app.command(name="predict")
def _predict(
    checkpoint: CheckpointArgument,
    clips: Annotated[tuple[str, ...], Positional, arg(metavar="CLIP...")],
    frames: int | None = None,
    top: int = 5,
    as_json: Annotated[bool, arg(name="json")] = False,
    budget_ms: float | None = None,
    cascade: tuple[int, ...] = (),
    confidence: float = 0.8,
    device: str = "auto",
) -> int:
    """Say what clips show. The exit code is 1 if any of them could not be read.

    Args:
        checkpoint: safetensors file of ours, or a released checkpoint.
        clips: video files, folders (all videos in them) and patterns such as 'clips/*.mp4'.
        frames: how many frames to take of each clip; by default the most the network was trained at.
        top: how many classes to show.
        as_json: print one JSON list, with times in milliseconds, instead of text.
        budget_ms: take as many frames as the network (without decoding) predicts within so many milliseconds.
            Latencies are measured once for this machine and kept in the folder FFN_CACHE.
        cascade: try these frame counts, fewest first, until the network is sure.
        confidence: probability from which on the network is sure.
        device: cpu, cuda, or auto for the GPU if there is one.
    """
    if (frames is not None) + (budget_ms is not None) + bool(cascade) > 1:
        raise ValueError("give one of --frames, --budget-ms and --cascade: each says how many frames to take")
    if top < 1:
        raise ValueError(f"--top must be at least 1, not {top}")
    predictor = ffn.Predictor(load_any(checkpoint), choose_device(device))
    if budget_ms is not None:
        curve = adaptive.LatencyCurve(predictor, cache_folder())
        if not curve.points and sys.stderr.isatty():
            print("Measuring, once, how fast this network is here ...", file=sys.stderr)
        frames = curve.most_frames(budget_ms)
        curve.warm_up(frames)
    counts = cascade or (max(predictor.frames, default=8) if frames is None else frames,)
    adaptive.check_cascade(counts, confidence)
    paths, failed = _find(clips)
    answers = []
    for path in tqdm(paths, unit="clip", leave=False, disable=None if len(paths) > 1 else True):
        try:
            clip = preload(ffn.open_video(path), counts, predictor.preprocess.sampling)
        except (ffn.VideoError, OSError) as error:
            failed += 1
            tqdm.write(f"ffn: {path} is passed over: {error}", file=sys.stderr)
            continue
        prediction, tried = adaptive.cascade(predictor, clip, counts, confidence, top)
        answer = _answer(path, clip, prediction, tried if cascade else [])
        answers.append(answer)
        if not as_json:
            tqdm.write(_as_text(answer, confidence))
    if as_json:
        print(json.dumps(answers))
    return 1 if failed else 0


@app.command(name="convert")
def _convert(
    source: Annotated[Path, Positional, arg(metavar="IN")], out: OutArgument, labels: Path | None = None
) -> None:
    """Write a released checkpoint in our form, safetensors.

    Args:
        source: file that the authors of the Frame Flexible Network, or of TSM, released.
        out: file to write.
        labels: file with the names of the classes, as the data set's authors give it.
    """
    print(f"Wrote {convert(source, out, labels)}")


@app.command(name="download")
def _download(name: Annotated[str, Positional, arg(metavar="NAME")], folder: Path | None = None) -> None:
    """Fetch a released checkpoint and convert it; print the path of the result.

    Args:
        name: what to fetch, such as tsm-ffn-ssv1; a wrong name lists them all.
        folder: where to keep it, instead of the folder FFN_CACHE.
    """
    print(download(name, folder))


@app.command(name="export")
def _export(
    checkpoint: CheckpointArgument,
    out: OutArgument,
    frames: int,
    format: Literal["onnx", "torch"] = "onnx",
    size: int | None = None,
) -> None:
    """Write the network for one frame count as ONNX or as a torch.export program, checked against PyTorch.

    Args:
        checkpoint: safetensors file of ours, or a released checkpoint.
        out: file to write.
        frames: frame count of the clips it will take, in batches of any size.
        format: onnx, or torch for torch.export.load.
        size: height and width of the frames in pixels; by default what the network was trained with.
    """
    written = export(load_any(checkpoint), out, frames, format, size)
    print(f"Wrote {out}: takes clips (batch, 3, {frames}, {written['size']}, {written['size']})")


@app.command(name="benchmark")
def _benchmark(
    models: tuple[str, ...] = ("tsm_tiny",),
    frames: tuple[int, ...] = (),
    num_classes: int = 174,
    size: int | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    compile: bool = False,
    threads: int | None = None,
    device: str = "auto",
    repeats: int = 20,
    out: Path | None = None,
) -> None:
    """Measure networks, plain, frame-flexible and deployed, and print a Markdown table.

    Args:
        models: names or patterns, such as 'tsm*'.
        frames: frame counts; by default each network's training frequencies.
        num_classes: size of the classifier.
        size: height and width of the frames in pixels; by default each network's own.
        dtype: of the deployed form; the others are float32.
        compile: compile the deployed form.
        threads: how many threads PyTorch uses on the CPU.
        device: cpu, cuda, or auto for the GPU if there is one.
        repeats: timed runs of each.
        out: folder for benchmark.csv and benchmark.png.
    """
    names = [name for pattern in models for name in _names(pattern)]
    where = choose_device(device)
    if threads is not None:
        if threads < 1:
            raise ValueError(f"--threads must be at least 1, not {threads}")
        torch.set_num_threads(threads)
    settings = {
        "num_classes": num_classes,
        "size": size,
        "dtype": getattr(torch, dtype),
        "compile": compile,
        "device": where,
        "repeats": repeats,
    }
    rows = []
    with tqdm(unit="row", leave=False, disable=None) as progress:
        for name in names:
            for row in benchmark(name, frames or None, **settings):
                rows.append(row)
                progress.set_description(f"{row.network} {row.form} {row.frames}F")
                progress.update()
    print(markdown(rows))
    print(f"\n{measure.describe(where)}; one clip at a time, median and middle half of {repeats} runs.")
    if out is not None:
        write(out, rows)


@app.command(name="models")
def _models(pattern: Annotated[str, Positional, arg(metavar="PATTERN")] = "*", num_classes: int = 174) -> None:
    """List the networks: parameters, plain and frame-flexible, and training frequencies.

    Args:
        pattern: which networks, such as 'tsm*'.
        num_classes: size of the classifier.
    """
    names = _names(pattern)
    print(f"{'network':24}{'parameters':>14}{'flexible':>14}  frames")
    for name in names:
        try:
            plain, model = ffn.create_backbone(name, num_classes), ffn.create_model(name, num_classes)
        except ValueError as error:  # an optional package is missing
            print(f"{name:24}{error}")
            continue
        sizes = [f"{measure.count_parameters(network):14,}" for network in (plain, model)]
        print(f"{name:24}{''.join(sizes)}  {'/'.join(map(str, model.frames))}", flush=True)


def _names(pattern: str) -> list[str]:
    names = ffn.list_models(pattern)
    if not names:
        raise ValueError(f"no network is called {pattern!r}; there are {', '.join(ffn.list_models())}")
    return names


def _find(clips: tuple[str, ...]) -> tuple[list[Path], int]:
    """The files that ``clips`` name, and how many of these names stand for nothing (each is said)."""
    if not clips:
        raise ValueError("name at least one clip: a video file, a folder or a pattern")
    found, failed = [], 0
    for name in clips:
        files = list(_expand(name))
        if not files:
            failed += 1
            print(f"ffn: {name} is passed over: there is no video there", file=sys.stderr)
        found += files
    return list(dict.fromkeys(found)), failed


def _expand(name: str) -> Iterator[Path]:
    is_pattern = glob.escape(name) != name and not Path(name).exists()
    for path in map(Path, sorted(glob.glob(name, recursive=True)) if is_pattern else [name]):
        if path.is_dir():
            yield from find_videos(path)
        else:
            yield path


def _answer(path: Path, clip, prediction: ffn.Prediction, tried: list[ffn.Prediction]) -> dict:
    answer = {
        "clip": str(path),
        "frames": prediction.frames,
        "frequency": prediction.frequency,
        "indices": prediction.indices,
        "top": [{"class": name, "probability": probability} for name, probability in prediction.top],
        "latency_ms": {
            "decoding": clip.decode_ms,
            "preprocessing": prediction.preprocess_ms,
            "network": prediction.network_ms,
        },
    }
    if tried:
        answer["tried"] = [{"frames": p.frames, "confidence": p.top[0][1]} for p in tried]
    return answer


def _as_text(answer: dict, confidence: float) -> str:
    frames, frequency = answer["frames"], answer["frequency"]
    title = f"{answer['clip']}: {frames} frame{'s'[: frames > 1]}"
    if frequency is not None:
        title += f", sub-network {frequency}"
    title += f", {answer['latency_ms']['network']:.1f} ms"
    if tried := answer.get("tried"):
        verdict = "sure enough" if tried[-1]["confidence"] >= confidence else "not sure even then"
        title += f" ({verdict}; tried {', '.join(str(t['frames']) for t in tried)})"
    lines = [f"{100 * entry['probability']:7.1f} %  {entry['class']}" for entry in answer["top"]]
    return "\n".join([title, *lines])


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 2 for what the user can put right, which is said in one sentence."""
    try:
        return app.cli(args=arguments, prog="python -m ffn", config=(FlagCreatePairsOff,)) or 0
    except (ValueError, OSError) as error:
        print(f"ffn: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
