"""What a network costs: parameters, multiply-adds, latency and memory."""

from __future__ import annotations

import copy
import ctypes
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_STATUS, _RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Latency:
    """Milliseconds a run takes: the median, and the range that the middle half of the runs fell in."""

    median: float
    low: float
    high: float


def count_parameters(model: nn.Module) -> int:
    """How many parameters ``model`` has; what branches share counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.inference_mode()
def gflops(model: nn.Module, frames: int, size: int) -> float:
    """Billions of multiply-adds for one clip of ``frames`` frames of ``size`` pixels squared.

    As in the field's tables, a multiplication with its addition counts as one, and only convolutions and
    matrix products (attention's too) count. Nothing is computed: a copy on the meta device says what would be.
    """
    clip = torch.empty(1, 3, frames, size, size, device="meta", dtype=_dtype(model))
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta").eval()(clip)
    return counter.get_total_flops() / 2 / 1e9  # PyTorch counts the addition as well


@torch.inference_mode()
def latency(module: Callable[[Tensor], Tensor], clip: Tensor, repeats: int = 20, warm_up: int = 3) -> Latency:
    """Run ``module`` on ``clip`` ``repeats`` times, after ``warm_up`` runs that are not timed.

    Raises:
        ValueError: if ``repeats`` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"a latency needs at least 1 repeat, not {repeats}")
    for _ in range(warm_up):
        module(clip)
    times = [_milliseconds(module, clip) for _ in range(repeats)]
    low, median, high = statistics.quantiles(times, n=4, method="inclusive") if repeats > 1 else times * 3
    return Latency(median, low, high)


@torch.inference_mode()
def peak_memory(module: nn.Module, clip: Tensor) -> float | None:
    """Megabytes (2**20 bytes) that predicting ``clip`` takes at most: all weights, and what a run adds.

    On a GPU that is what PyTorch's allocator hands out. On a CPU it is the growth of the process's resident
    memory, libraries' own buffers included, in steps of the system's pages; only Linux tells, None elsewhere.
    Call it after a first run, or what libraries set up once is counted too.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in _held(module))
    if clip.is_cuda:
        torch.cuda.synchronize(clip.device)
        before = torch.cuda.memory_allocated(clip.device)
        torch.cuda.reset_peak_memory_stats(clip.device)
        module(clip)
        torch.cuda.synchronize(clip.device)
        added = torch.cuda.max_memory_allocated(clip.device) - before
    elif _RESET_PEAK.exists():
        _give_back_freed_memory()
        _RESET_PEAK.write_text("5")
        before = process_memory("VmRSS")
        module(clip)
        added = process_memory("VmHWM") - before
    else:
        return None
    return (weights + added) / 2**20


def describe(device: torch.device) -> str:
    """What numbers were measured on, for a caption."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s'[: threads > 1]}, PyTorch {torch.__version__}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return name[1] if name else platform.machine()


def _held(module: nn.Module) -> set[Tensor]:
    # Weights that a deployed network packed for its processor are attributes, not parameters.
    attributes = {
        value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)
    }
    return {*module.parameters(), *module.buffers(), *attributes}


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _milliseconds(module: Callable[[Tensor], Tensor], clip: Tensor) -> float:
    _finish(clip)
    start = time.perf_counter()
    module(clip)
    _finish(clip)
    return (time.perf_counter() - start) * 1e3


def _finish(clip: Tensor) -> None:
    if clip.is_cuda:
        torch.cuda.synchronize(clip.device)


def _give_back_freed_memory() -> None:
    # glibc keeps freed memory: a run that fills it again would seem to need none.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def process_memory(field: str) -> int:
    """Bytes, from the kernel's account of this process."""
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)[1])
