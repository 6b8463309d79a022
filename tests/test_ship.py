"""Shipped checkpoints and their cards."""

import re
from pathlib import Path

import pytest
import torch

import ffn
from ffn.checkpoint import read_metadata
from trainers.evaluate import Settings, compare
from trainers.run import main as run
from trainers.ship import ship

ASSETS = Path(__file__).parents[1] / "assets"
CARDS = sorted(ASSETS.glob("*.md"))


def claimed(card: Path) -> dict[int, float]:
    """Top-1 (%) by frame count, as the card says."""
    rows = {
        name.strip(): cells
        for name, *cells in (
            line.strip("|").split("|") for line in card.read_text().splitlines() if "|" in line
        )
    }
    return {int(n): float(top1) for n, top1 in zip(rows["frames"], rows["top-1 (%)"], strict=True)}


def test_a_run_is_shipped_in_half_precision_with_what_it_can(tmp_path):
    small = ["--clips", "42", "--val-clips", "21", "--size", "32", "--batch-size", "21", "--epochs", "1"]
    small += ["--device", "cpu", "--workers", "0"]
    assert run([*small, "--method", "plain", "--frames", "2", "--out", str(tmp_path / "first")]) == 0
    init = str(tmp_path / "first" / "best.safetensors")
    assert run([*small, "--frames", "2", "4", "--init", init, "--out", str(tmp_path / "second")]) == 0
    out = tmp_path / "mine.safetensors"
    ship(tmp_path / "second", out, clips=42)
    assert {p.dtype for p in ffn.checkpoint._read(out)[0].values()} <= {torch.half, torch.int64}
    assert read_metadata(out)["seed"] == "0" and "trained" in read_metadata(out)
    text = out.with_suffix(".md").read_text()
    assert "On 42 validation clips" in text and "--no-costs --clips 42\n" in text
    first, second = re.findall(r"python -m trainers\.run .*", text)
    assert "--method plain --frames 2" in first and "--out runs/first" in first
    assert "--init runs/first/best.safetensors" in second and str(tmp_path) not in first + second
    settings = Settings((out,), frames=(2, 4), clips=42, costs=False, device="cpu")
    assert compare(settings).outcomes["mine"].accuracy == pytest.approx(
        {n: claimed(out.with_suffix(".md"))[n] for n in (2, 4)}, abs=0.1
    )


def test_only_finished_runs_are_shipped(tmp_path):
    with pytest.raises(ValueError, match="no finished run"):
        ship(tmp_path, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        ship(tmp_path, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="clips must be at least 1, got 0"):
        ship(tmp_path, tmp_path / "a.safetensors", clips=0)


def test_every_shipped_checkpoint_is_small_and_has_a_card():
    files = sorted(ASSETS.glob("*.safetensors"))
    assert [file.with_suffix(".md") for file in files] == CARDS
    for file in files:
        model = ffn.load(file)
        assert file.stat().st_size < 4e6 and model.spec.classes[-1] == "camera zooming out"
        assert set(model.spec.frames) <= set(claimed(file.with_suffix(".md")))
        assert f"trainers.evaluate assets/{file.name}" in file.with_suffix(".md").read_text()


@pytest.mark.slow
def test_a_card_says_what_its_checkpoint_does():
    card = ASSETS / "tsm_tiny-ffn-motion.md"
    counts = (4, 16)
    clips = int(re.search(r"--clips (\d+)", card.read_text())[1])
    asked = Settings((card.with_suffix(".safetensors"),), frames=counts, clips=clips, costs=False)
    (outcome,) = compare(asked).outcomes.values()
    assert outcome.accuracy == pytest.approx({n: claimed(card)[n] for n in counts}, abs=0.1)
