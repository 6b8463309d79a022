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

from ffn.alteration import AlterationPoint, Places, WeightAlteration, alteration_places, put_alterations

__all__ = ["NORMS", "AlterationPoint", "FrameFlexible", "WeightAlteration", "nearest"]

NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class FrameFlexible(nn.Module):
    """One branch of ``backbone`` per training frequency, weights shared, norms and alterations private.

    Norms are those of PyTorch, 1d to 3d, and their subclasses: BatchNorm and SyncBatchNorm, InstanceNorm,
    LayerNorm, GroupNorm and RMSNorm, each with whatever it holds. ``alterations`` lists where the weight
    alterations went, by the backbone's names of the modules whose input they scale.

    Args:
        backbone: any network that takes a clip ``(B, C, T, H, W)`` of any T >= 1. Its weights are taken
            over, not copied; every private norm starts as a copy of the backbone's.
        frames: the training frequencies, in frames; any number of them, in any order.
        share_weights, private_norms: switch off for the paper's ablations.
        alteration: False for none, or where: names of modules or patterns (``"layer*.conv1"``), or a
            function of name and module. By default at the backbone's :class:`AlterationPoint` modules or,
            if it has none, before the first convolution of each residual block, which a block's class
            name tells (:func:`ffn.alteration.first_convolutions`).

    Raises:
        ValueError: if ``frames`` is empty, repeats a count or holds one below 1; if ``alteration`` names a
            module that is not there or has no known input channels; if the backbone cannot be copied.
    """

    def __init__(
        self,
        backbone: nn.Module,
        frames: Iterable[int] = (4, 8, 16),
        *,
        share_weights: bool = True,
        private_norms: bool = True,
        alteration: bool | Places = True,
    ):
        super().__init__()
        frames = tuple(sorted(int(f) for f in frames))
        if not frames or frames[0] < 1 or len(set(frames)) < len(frames):
            raise ValueError(f"frames must be one or more different counts of at least 1, not {frames}")
        self.frames = frames
        self.spec = getattr(backbone, "spec", None)
        self.alterations = alteration_places(backbone, alteration)
        self.branches = nn.ModuleDict()
        for count in frames:
            branch = _branch(backbone, share_weights, private_norms)
            put_alterations(branch, self.alterations)
            self.branches[str(count)] = branch

    def frequency_for(self, num_frames: int) -> int:
        """The training frequency that serves ``num_frames`` frames: the nearest; a tie goes to the higher."""
        if num_frames < 1:
            raise ValueError(f"a clip needs at least 1 frame, not {num_frames}")
        return nearest(self.frames, num_frames)

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

    def extra_repr(self) -> str:
        return f"frames={self.frames}, alterations={self.alterations}"

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


def nearest(frames: Iterable[int], num_frames: int) -> int:
    """The one of ``frames`` that is nearest to ``num_frames``; a tie goes to the higher."""
    return min(frames, key=lambda f: (abs(f - num_frames), -f))


def _branch(backbone: nn.Module, share_weights: bool, private_norms: bool) -> nn.Module:
    """A copy of ``backbone`` whose shared tensors are the backbone's own."""
    if not (share_weights or private_norms):
        raise ValueError("without shared weights every branch owns its norms: leave private_norms on")
    _check_functions(backbone)
    shared = {id(tensor): tensor for tensor in _tensors(backbone)} if share_weights else {}
    for module in backbone.modules():
        if private_norms and isinstance(module, NORMS):
            for tensor in _tensors(module):  # of a norm's parametrisation, too
                shared.pop(id(tensor), None)
    try:
        return copy.deepcopy(backbone, shared)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{type(backbone).__name__} cannot be copied into branches: {error}") from error


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _check_functions(backbone: nn.Module) -> None:
    """Refuse functions that hold a module: a copy of the backbone would go on calling the original's."""
    modules = set(backbone.modules())
    for name, module in backbone.named_modules():
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        for function in (*vars(module).values(), *hooks):
            cells = getattr(function, "__closure__", None) or ()
            held = [cell.cell_contents for cell in cells]
            if any(isinstance(value, nn.Module) and value in modules for value in held):
                raise ValueError(
                    f"{name or type(backbone).__name__} keeps a function that refers to one of the network's "
                    "modules from outside; make it a method, so that each branch calls its own modules"
                )
