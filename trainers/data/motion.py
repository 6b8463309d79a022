"""Motion: clips rendered on the fly whose class is only in the motion, in the manner of Something-Something.

    python -m trainers.data.motion OUT --clips-per-class 300 --size 128

writes the same clips as a folder data set. Scenes are randomised (textures, objects, hands, light, camera
sway, noise, compression), so that a network trained on them can name motions in real footage. A camera
panning left shows the picture's content moving right; zooming in enlarges the whole picture, closer
enlarges the object alone. Turning is in the picture's plane, clockwise as seen on the screen.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from trainers.data.motion_paths import CLASSES
from trainers.data.motion_scene import DRAWN, Drawn, scene_of

SPLITS = {"train": (0, 12_600), "val": (1 << 40, 630)}  # first seed and default number of clips
SMALLEST = 16  # pixels; below it nothing can be told
CODECS = {".mp4": "mp4v", ".webm": "VP90"}


# ---------------------------------------------------------------- one clip


@dataclass(frozen=True)
class MotionClip:
    """One clip, deterministic in (label, seed, num_frames); the same scene at every size."""

    label: int
    seed: int
    num_frames: int = 32
    height: int = 64
    width: int = 64
    fps: float = 12.0
    clutter: float = 1.0
    """how crowded, noisy and shaky the scene may be at most; 0: one thing before a calm background"""
    material: Drawn = DRAWN

    def read(self, indices) -> np.ndarray:
        """uint8 RGB frames (len(indices), height, width, 3); indices in any order, repeats allowed.

        A frame is the same whichever others are asked for. IndexError outside [0, num_frames).
        """
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        if indices.size and not (indices.min() >= 0 and indices.max() < self.num_frames):
            raise IndexError(f"frame indices must lie in [0, {self.num_frames}), got {indices.tolist()}")
        scene, frames = scene_of(self), {}
        for k in indices.tolist():
            if k not in frames:
                frames[k] = scene.frame(k)
        shape = (len(indices), self.height, self.width, 3)
        return np.stack([frames[k] for k in indices.tolist()]) if len(indices) else np.empty(shape, np.uint8)


# ---------------------------------------------------------------- the data set


class Motion:
    """A source of `clips` rendered clips, classes in turn; train and val share no seed.

    The first quarter of the training clips is calm, the second ever more cluttered, and `gradual` asks that
    the first epoch keeps that order: else a thousand steps pass before a network learns anything at all.

    `size` is the side, or (height, width), in pixels. ValueError for an unknown split, a size below 16
    pixels, no frames, or a negative number of clips.
    """

    classes = CLASSES
    skipped = ()

    def __init__(
        self, split: str, clips: int | None = None, size: int | tuple[int, int] = 64, num_frames: int = 32
    ):
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        self.first_seed, default = SPLITS[split]
        self.gradual = split == "train"
        self.clips = default if clips is None else clips
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.num_frames = num_frames
        if min(self.height, self.width) < SMALLEST:
            raise ValueError(f"size must be at least {SMALLEST} pixels, got {self.height}x{self.width}")
        if num_frames < 1 or self.clips < 0:
            raise ValueError(
                f"need at least 1 frame and 0 clips, got {num_frames} frames and {self.clips} clips"
            )

    def __len__(self) -> int:
        return self.clips

    def label(self, i: int) -> int:
        """Class index of clip `i`; IndexError past the end."""
        if not 0 <= i < self.clips:
            raise IndexError(f"clip index must lie in [0, {self.clips}), got {i}")
        return i % len(CLASSES)

    def name(self, i: int) -> str:
        return f"motion clip {self.first_seed + i}"

    def open(self, i: int) -> MotionClip:
        clutter = min(max(4 * i / self.clips - 1, 0.0), 1.0) if self.gradual else 1.0
        place = self.label(i), self.first_seed + i, self.num_frames, self.height, self.width
        return MotionClip(*place, clutter=clutter)


# ---------------------------------------------------------------- as files


def write_clip(path: str | os.PathLike, frames: np.ndarray, fps: float) -> None:
    """Write uint8 RGB `frames` (T, H, W, 3) as a video, whole or not at all; the suffix picks the codec.

    .mp4 is MPEG-4 part 2: fast, read by every OpenCV and desktop player, but not by browsers. .webm is VP9:
    some fifty times slower to write, and what a web page can show. (OpenCV's wheel has no H.264 encoder.)
    ValueError for another suffix, odd sides (OpenCV would cut the last row or column off), or frames of
    another kind.
    """
    path, frames = Path(path), np.asarray(frames)
    if path.suffix not in CODECS:
        raise ValueError(f"cannot write {path.name}: the suffix must be one of {', '.join(CODECS)}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise ValueError(f"frames must be uint8 (T, H, W, 3) with T >= 1, got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"a video needs even sides, got {height}x{width}")
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        writer = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*CODECS[path.suffix]), fps, (width, height))
        if not writer.isOpened():
            raise OSError(f"cannot write {path}: OpenCV opens no {CODECS[path.suffix]} encoder there")
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        writer.release()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_folder(
    out: Path, clips_per_class: int, val_per_class: int, size: int, num_frames: int = 32, fps: float = 12.0
) -> None:
    """Write the clips of `Motion` as OUT/<split>/<class>/NNNNN.mp4; files already there are kept."""
    from tqdm import tqdm

    counts = {"train": clips_per_class * len(CLASSES), "val": val_per_class * len(CLASSES)}
    sources = {split: Motion(split, clips, size, num_frames) for split, clips in counts.items()}
    jobs = [(split, i) for split, source in sources.items() for i in range(len(source))]
    for split, i in tqdm(jobs, unit="clip", desc="motion"):
        clip = sources[split].open(i)
        path = Path(out) / split / CLASSES[clip.label] / f"{i // len(CLASSES):05d}.mp4"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_clip(path, clip.read(range(num_frames)), fps)


def main() -> None:
    import tyro

    def command(
        out: tyro.conf.Positional[Path],
        clips_per_class: int = 300,
        val_per_class: int = 30,
        size: int = 128,
        num_frames: int = 32,
        fps: float = 12.0,
    ) -> None:
        """Write the Motion data set as a folder of videos.

        Args:
            out: folder to write to; files already there are kept.
            clips_per_class: training clips of each class.
            val_per_class: validation clips of each class.
            size: side of the square frames in pixels, even, at least 16.
            num_frames: frames of each clip.
            fps: frames per second of the files.
        """
        write_folder(out, clips_per_class, val_per_class, size, num_frames, fps)

    try:
        tyro.cli(command, prog="python -m trainers.data.motion")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
