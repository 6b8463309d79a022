"""FrameFlexible: any video network, made to serve every frame count.

Zhang et al., "Frame Flexible Network", CVPR 2023, arXiv 2303.14817. One branch per training
frequency; branches share every convolution and linear weight (the same ``Parameter`` objects)
and own their norms and weight alterations. A branch is a complete plain network: nothing holds a
"current frequency", so threads may use several branches at once, and each compiles, exports and
folds by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from operator import index
from types import FunctionType
from typing import Any

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
        frames = tuple(sorted(map(index, frames)))
        if not frames or frames[0] < 1 or len(set(frames)) < len(frames):
            raise ValueError(f"frames must be one or more different counts of at least 1, not {frames}")
        self.frames = frames
        self.alterations = alteration_places(backbone, alteration)
        switches = {"share_weights": share_weights, "private_norms": private_norms}
        # Where alterations went, by name: patterns and functions are resolved.
        switches["alteration"] = alteration if isinstance(alteration, bool) else list(self.alterations)
        self.spec = _spec_of_branches(backbone, frames, switches)
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
        """Start frequency ``target`` from what frequency ``source`` owns: its norms and alterations.

        Raises:
            ValueError: if one of the two is no training frequency.
        """
        if unknown := {source, target} - set(self.frames):
            raise ValueError(f"there is no branch for {min(unknown)} frames, only for {self.frames}")
        target_state = self.branches[str(target)].state_dict()
        for name, tensor in self.branches[str(source)].state_dict().items():
            target_state[name].copy_(tensor)

    def extra_repr(self) -> str:
        return f"frames={self.frames}, alterations={self.alterations}"

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """As PyTorch's; with ``assign``, too, branches go on sharing what they share."""
        with self._kept_shared():
            return super().load_state_dict(state_dict, strict, assign)

    def _apply(self, fn, recurse=True):
        with self._kept_shared():  # buffers are replaced and, from or to the meta device, parameters
            return super()._apply(fn, recurse)

    @contextmanager
    def _kept_shared(self) -> Iterator[None]:
        shared = list(self._shared())
        yield
        for holders, name in shared:
            for holder in holders[1:]:
                holder[name] = holders[0][name]

    def _shared(self) -> Iterator[tuple[list[dict], str]]:
        """Each tensor that all branches share: what holds it in each of them, and its name there."""
        first, *others = (
            dict(branch.named_modules(remove_duplicate=False)) for branch in self.branches.values()
        )
        for path, module in first.items():
            for kind in ("_parameters", "_buffers"):
                holders = [getattr(modules.get(path), kind, {}) for modules in (first, *others)]
                for name, tensor in getattr(module, kind).items():
                    if tensor is not None and all(holder.get(name) is tensor for holder in holders):
                        yield holders, name


def nearest(frames: Iterable[int], num_frames: int) -> int:
    """The one of ``frames`` that is nearest to ``num_frames``; a tie goes to the higher."""
    return min(frames, key=lambda f: (abs(f - num_frames), -f))


def unwrapped(model: nn.Module) -> nn.Module:
    """The network within what ``torch.compile``, DataParallel or DistributedDataParallel made of it."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._orig_mod
        else:
            return model


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


def _spec_of_branches(backbone: nn.Module, frames: tuple[int, ...], switches: dict) -> object:
    """The backbone's :class:`ffn.registry.Spec`, if it has one, made that of its frame-flexible form."""
    spec = getattr(backbone, "spec", None)
    if not hasattr(spec, "flexible"):
        return None
    changed = {name: value for name, value in switches.items() if value is not True}
    return replace(spec, frames=frames, flexible=True, options=spec.options | changed)


def _check_functions(backbone: nn.Module) -> None:
    """Refuse functions that hold a module: a copy of the backbone would go on calling the original's."""
    modules = set(backbone.modules())
    for name, module in backbone.named_modules():
        held = [value for function in _functions(vars(module)) for value in _held(function)]
        if any(isinstance(value, nn.Module) and value in modules for value in held):
            raise ValueError(
                f"{name or type(backbone).__name__} keeps a function that refers to one of the network's "
                "modules from outside; make it a method, so that each branch calls its own modules"
            )


def _functions(value: object) -> Iterator[FunctionType]:
    """The functions in ``value``, a container of any depth."""
    if isinstance(value, FunctionType):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _functions(part)


def _held(function: FunctionType) -> Iterator[object]:
    yield from (cell.cell_contents for cell in function.__closure__ or ())
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
