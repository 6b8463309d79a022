"""Make the demo's example clips again: python assets/make_examples.py

Seeds were chosen for motions that are easy to see and that the plain network misses at few frames. VP9 in
WebM is what every browser plays.
"""

from pathlib import Path

from trainers.data.motion import CLASSES, MotionClip, write_clip

FOLDER = Path(__file__).parent / "examples"
FIRST_SEED = 1 << 41  # beyond the seeds of the training and the validation clips
FRAMES, FPS = 48, 16
EXAMPLES = (
    ("moving something left to right", 5),
    ("moving something closer", 20),
    ("turning something clockwise", 8),
    ("moving something round in a circle clockwise", 2),
    ("two things coming together", 1),
    ("camera zooming in", 7),
)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, seed in EXAMPLES:
        clip = MotionClip(CLASSES.index(name), FIRST_SEED + seed, FRAMES, height=192, width=192, fps=FPS)
        path = FOLDER / f"{name.replace('something ', '').replace(' ', '-')}.webm"
        write_clip(path, clip.read(range(FRAMES)), FPS)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
