"""FrameFlexible: any video network, made to serve every frame count.

Zhang et al., "Frame Flexible Network", CVPR 2023, arXiv 2303.14817. One branch per training
frequency; branches share every convolution and linear weight (the same ``Parameter`` objects)
and own their norms and weight alterations. A branch is a complete plain network: nothing holds a
"current frequency", so threads may use several branches at once, and each compiles, exports and
folds by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm)


class AlterationPoint(nn.Identity):
    """Where a backbone lets :class:`FrameFlexible` put a weight alteration; does nothing by itself."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels


class WeightAlteration(nn.Module):
    """Scales channel c by ``1 + weight[c]``: the paper's residual depth-wise 1x1 convolution.

    Takes and returns ``(N, channels, ...)``. Weights start from a normal of standard deviation 1e-3.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels).normal_(std=1e-3))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype).view(-1, *[1] * (x.dim() - 2))
        return x + x * weight  # in two steps, as released: training then agrees to the last bits

    def extra_repr(self) -> str:
        return str(self.weight.numel())


class FrameFlexible(nn.Module):
    """One branch of ``backbone`` per training frequency, weights shared, norms and alterations private.

    Args:
        backbone: any network that takes a clip ``(B, C, T, H, W)`` of any T >= 1. Its weights are taken
            over, not copied; every private norm starts as a copy of the backbone's.
        frames: the training frequencies, in frames; any number of them, in any order.
        share_weights, private_norms, alteration: switch off for the paper's ablations.

    Raises:
        ValueError: if ``frames`` is empty, repeats a count or holds one below 1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        frames: Iterable[int] = (4, 8, 16),
        *,
        share_weights: bool = True,
        private_norms: bool = True,
        alteration: bool = True,
    ):
        super().__init__()
        frames = tuple(sorted(int(f) for f in frames))
        if not frames or frames[0] < 1 or len(set(frames)) < len(frames):
            raise ValueError(f"frames must be one or more different counts of at least 1, not {frames}")
        self.frames = frames
        self.spec = getattr(backbone, "spec", None)
        self.branches = nn.ModuleDict()
        for count in frames:
            branch = _branch(backbone, share_weights, private_norms)
            self.branches[str(count)] = _with_alterations(branch) if alteration else branch

    def frequency_for(self, num_frames: int) -> int:
        """The training frequency that serves ``num_frames`` frames: the nearest; a tie goes to the higher."""
        if num_frames < 1:
            raise ValueError(f"a clip needs at least 1 frame, not {num_frames}")
        return min(self.frames, key=lambda f: (abs(f - num_frames), -f))

    def branch(self, num_frames: int) -> nn.Module:
        """The plain network that serves clips of ``num_frames`` frames."""
        return self.branches[str(self.frequency_for(num_frames))]

    def forward(self, clip: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` -> logits ``(B, num_classes)``, through the branch nearest to T."""
        return self.branch(clip.shape[2])(clip)

    @torch.no_grad()
    def copy_private(self, source: int, target: int) -> None:
        """Start frequency ``target`` from the norms and alterations of frequency ``source``."""
        target_state = self.branches[str(target)].state_dict()
        for name, tensor in self.branches[str(source)].state_dict().items():
            target_state[name].copy_(tensor)

    def _apply(self, fn, recurse=True):
        # Parameters are converted in place and stay shared; buffers are replaced, so tie them again.
        ties = list(self._shared_buffers())
        super()._apply(fn, recurse)
        for modules, name in ties:
            for module in modules[1:]:
                module._buffers[name] = modules[0]._buffers[name]
        return self

    def _shared_buffers(self) -> Iterator[tuple[tuple[nn.Module, ...], str]]:
        """Each buffer that all branches share: the modules that hold it, and its name in them."""
        for modules in zip(*(branch.modules() for branch in self.branches.values()), strict=True):
            for name, buffer in modules[0]._buffers.items():
                if buffer is not None and all(m._buffers[name] is buffer for m in modules):
                    yield modules, name


def _branch(backbone: nn.Module, share_weights: bool, private_norms: bool) -> nn.Module:
    """A copy of ``backbone`` whose shared tensors are the backbone's own."""
    memo = {}
    if share_weights:
        for module in backbone.modules():
            if private_norms and isinstance(module, NORMS):
                continue
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            memo.update((id(tensor), tensor) for tensor in own)
    elif not private_norms:
        raise ValueError("without shared weights every branch owns its norms: leave private_norms on")
    return copy.deepcopy(backbone, memo)


def _with_alterations(module: nn.Module) -> nn.Module:
    """Put a weight alteration, on the module's device, at each of its alteration points."""
    for name, child in module.named_children():
        if isinstance(child, AlterationPoint):
            device = next((p.device for p in module.parameters()), None)
            setattr(module, name, WeightAlteration(child.channels).to(device))
        else:
            _with_alterations(child)
    return module
