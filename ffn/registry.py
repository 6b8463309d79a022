"""The networks by name. A new one is a file in :mod:`ffn.backbones` whose entry points are registered."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import nn

from ffn.alteration import Places
from ffn.flexible import FrameFlexible
from ffn.preprocess import Preprocess


@dataclass(frozen=True)
class Spec:
    """What a network knows about itself (``model.spec``): enough to build it again and to feed it.

    ``frames`` are the frame counts it is trained at, ``flexible`` whether it is a FrameFlexible,
    ``options`` the keyword arguments it was created with beyond these (without ``pretrained``: a
    checkpoint brings its own weights), ``classes`` the class names.
    """

    name: str
    num_classes: int
    frames: tuple[int, ...]
    flexible: bool = False
    options: dict = field(default_factory=dict)
    preprocess: Preprocess = field(default_factory=Preprocess)
    classes: tuple[str, ...] | None = None

    def build(self) -> nn.Module:
        """The network this describes, with fresh weights."""
        if self.flexible:
            model = create_model(self.name, self.num_classes, self.frames, **self.options)
        else:
            model = create_backbone(self.name, self.num_classes, **self.options)
        model.spec = self
        return model


def spec_of(model: nn.Module) -> Spec | None:
    """What ``model`` knows about itself, if it is one of ours."""
    spec = getattr(model, "spec", None)
    return spec if isinstance(spec, Spec) else None


@dataclass(frozen=True)
class _Entry:
    build: Callable[..., nn.Module]
    frames: tuple[int, ...]
    preprocess: Preprocess


_ENTRIES: dict[str, _Entry] = {}


def register(*, frames: tuple[int, ...] = (4, 8, 16), preprocess: Preprocess | None = None):
    """Make ``build(num_classes, **options)`` a network that the function's name creates.

    ``frames`` are its usual training frequencies, ``preprocess`` what it is fed with.
    """

    def add(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        _ENTRIES[build.__name__] = _Entry(build, frames, preprocess or Preprocess())
        return build

    return add


def list_models(pattern: str = "*") -> list[str]:
    """The names of the networks that match ``pattern``, as in ``list_models("tsm*")``."""
    return sorted(fnmatch.filter(_ENTRIES, pattern))


def usual_frames(name: str) -> tuple[int, ...]:
    """The training frequencies that a network is usually given, in frames."""
    return _entry(name).frames


def create_backbone(name: str, num_classes: int, **options) -> nn.Module:
    """A plain network with fresh weights: clip ``(B, 3, T, H, W)`` -> logits ``(B, num_classes)``.

    Raises:
        ValueError: if no network has that name, or it has no such option.
    """
    entry = _entry(name)
    try:
        backbone = entry.build(num_classes, **options)
    except TypeError as error:
        unknown = re.search("unexpected keyword argument '(.+)'", str(error))
        if unknown is None:
            raise
        raise ValueError(f"the network {name} has no option {unknown[1]!r}: leave it away") from error
    kept = {option: value for option, value in options.items() if option != "pretrained"}
    backbone.spec = Spec(name, num_classes, entry.frames[-1:], False, kept, entry.preprocess)
    return backbone


def create_model(
    name: str,
    num_classes: int,
    frames: Iterable[int] | None = None,
    *,
    share_weights: bool = True,
    private_norms: bool = True,
    alteration: bool | Places = True,
    **options,
) -> FrameFlexible:
    """The frame-flexible form of a network; ``frames`` default to the network's usual frequencies.

    ``options`` go to the network, the switches to :class:`ffn.FrameFlexible`.
    """
    backbone = create_backbone(name, num_classes, **options)
    return FrameFlexible(
        backbone,
        _entry(name).frames if frames is None else frames,
        share_weights=share_weights,
        private_norms=private_norms,
        alteration=alteration,
    )


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise ValueError(f"there is no network named {name!r}; choose one of {', '.join(list_models())}")
    return _ENTRIES[name]
