"""Checkpoints to demonstrate: fresh weights, and classifiers wild enough that answers differ."""

from dataclasses import replace
from pathlib import Path

import torch

import ffn
from trainers.data.motion import CLASSES


def network(name: str, flexible: bool, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = (ffn.create_model if flexible else ffn.create_backbone)(name, len(CLASSES))
    model.spec = replace(model.spec, classes=CLASSES)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.5)
    return model


def write_networks(folder: Path) -> dict[str, str]:
    """A shipped pair, a run, and a checkpoint to upload; the environment that the demo finds them by."""
    shipped, run = folder / "shipped", folder / "runs" / "my-run"
    ffn.save(network("tsm_tiny", True), shipped / "tsm_tiny-ffn-motion.safetensors")
    ffn.save(network("tsm_tiny", False), shipped / "tsm_tiny-plain16-motion.safetensors")
    ffn.save(network("uniformer_tiny", True, 1), run / "best.safetensors")
    ffn.save(network("tsm_tiny", True, 2), folder / "other.safetensors")
    return {"FFN_CHECKPOINTS": str(shipped), "FFN_RUNS": str(folder / "runs")}
