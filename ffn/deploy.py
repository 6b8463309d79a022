"""Deployment: the plain network for one frame count, made to predict fast and nothing else."""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor, fx, nn

from ffn import kernels
from ffn.device import channels_last
from ffn.flexible import FrameFlexible, unwrapped
from ffn.fold import fold

COMPILERS = (os.environ.get("CXX") or "g++", "clang++", "cl")


class Deployed(nn.Module):
    """A network for prediction only: clip ``(B, C, T, H, W)`` of any dtype -> float32 logits."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network = network
        self.dtype = dtype
        self.eval()

    @torch.no_grad()
    def forward(self, clip: Tensor) -> Tensor:
        return self.network(clip.to(self.dtype)).float()


class Compiled(nn.Module):
    """Compiles ``network``, its weights taken for constants, for each shape of clips it is given."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = torch.compile(network, dynamic=False)

    def forward(self, clip: Tensor) -> Tensor:
        from torch._inductor import config  # slow to import

        with config.patch(freezing=True):  # as an option of torch.compile it would come too late
            return self.network(clip)


@torch.inference_mode(False)
@torch.no_grad()
def deploy(
    model: nn.Module, frames: int, dtype: torch.dtype = torch.float32, compile: bool = False
) -> Deployed:
    """The network that predicts clips of ``frames`` frames with ``model``, as fast as it can.

    Norms and alterations are folded into their neighbours (:mod:`ffn.fold`), channels stand last in memory
    and, on a CPU, layers are packed (:mod:`ffn.kernels`). What cannot be folded, in networks of other
    people, is left as it is. In float32 the logits are the model's to within rounding.

    Args:
        model: frame-flexible or plain; not changed, and not needed any longer. The deployed network is on
            its device, to stay there.
        frames: the frame count, which picks the branch; the branch's other frame counts are served too.
        dtype: of weights and features; bfloat16 takes a third of the time on processors that know it.
        compile: use PyTorch's compiler in place of packed layers: faster for some networks, slower for
            others, so measure. The first clip of each shape then takes up to minutes, and on a CPU a C++
            compiler is needed.

    Raises:
        ValueError: if ``frames`` is below 1, ``dtype`` is not a floating-point type, or there is no C++
            compiler to ``compile`` with.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"a network computes in a floating-point type, such as torch.float32, not {dtype}")
    if frames < 1:
        raise ValueError(f"a clip needs at least 1 frame, not {frames}")
    if compile and not any(map(shutil.which, COMPILERS)):
        raise ValueError("compile=True needs a C++ compiler: install g++, or leave compile off")
    model = unwrapped(model)
    plain = model.branch(frames) if isinstance(model, FrameFlexible) else model
    network = channels_last(fold(plain).to(dtype))
    if compile:
        network = Compiled(network)
    elif isinstance(network, fx.GraphModule) and kernels.available(network, dtype):
        kernels.pack(network)
    return Deployed(network, dtype)
