"""PerFrame: any image network made a video network, by TSM's temporal shift and the mean over frames.

Lin, Gan, Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, arXiv 1811.08383.

Shapes: B clips, T frames, C channels, H W pixels. Inside, frames stand in the batch: (B*T, C, H, W).
"""

from __future__ import annotations

import threading

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ffn.alteration import AlterationPoint, Altered, Places, first_convolutions, select, substitute
from ffn.backbones import tsm


class _Clip(threading.local):
    """The frame count of the clip that this thread is in the middle of.

    A network that we did not write hands its layers one tensor, so the count cannot be an argument. It is
    kept per thread and only for the time of one call: calls in other threads do not see it. (Compilers
    follow a thread-local, which they do not a ``ContextVar``.)
    """

    def __init__(self):  # runs once in every thread
        self.frames: int | None = None


_CLIP = _Clip()


class Shifted(Altered):
    """A convolution behind a temporal shift of its input and, in FrameFlexible, a weight alteration."""

    def __init__(self, layer: nn.Module):
        convolution = next((m for m in layer.modules() if isinstance(m, _ConvNd)), None)
        if convolution is None:
            raise ValueError(
                f"a {type(layer).__name__} holds no convolution: temporal shift moves the channels "
                "(N, C, H, W) before one; name others, or pass shift=False"
            )
        super().__init__(AlterationPoint(convolution.in_channels), layer)

    def forward(self, x: Tensor) -> Tensor:
        if _CLIP.frames is None:
            raise RuntimeError(
                "a shifted layer knows its clip's frame count only while PerFrame.forward runs; "
                "do not call it alone, nor again in the backward pass (activation checkpointing)"
            )
        return super().forward(tsm.temporal_shift(x, _CLIP.frames))  # by its module: torch.fx wraps it there


class PerFrame(nn.Module):
    """Clip ``(B, 3, T, H, W)`` -> logits ``(B, num_classes)``: the mean over frames of an image network's.

    Several threads may call it at once, at different frame counts. ``torch.compile``, ``torch.export`` and
    ``copy.deepcopy`` work; activation checkpointing inside the network does not. ``shifts`` lists the
    convolutions that a shift stands before.

    Args:
        network: takes images ``(N, 3, H, W)`` and returns ``(N, num_classes)``. Taken over, not copied.
        shift: which convolutions see an eighth of their input channels from the next frame and an eighth
            from the one before: names or patterns (``"blocks.*.conv_pw"``), or a function of name and
            module. By default the first of each residual block (:func:`ffn.alteration.first_convolutions`),
            as in TSM; False for none. FrameFlexible's weight alterations follow the shifts.

    Raises:
        ValueError: if ``shift`` picks nothing, or something that holds no convolution.
    """

    def __init__(self, network: nn.Module, shift: bool | Places = True):
        super().__init__()
        self.shifts = tuple(_places(network, shift))
        substitute(network, self.shifts, Shifted)
        self.network = network

    def forward(self, clip: Tensor) -> Tensor:
        frames = clip.shape[2]
        outer, _CLIP.frames = _CLIP.frames, frames
        try:
            logits = self.network(clip.transpose(1, 2).flatten(0, 1))
        finally:
            _CLIP.frames = outer
        return logits.unflatten(0, (-1, frames)).mean(1)

    def extra_repr(self) -> str:
        return f"shifts={self.shifts}"


def _places(network: nn.Module, shift: bool | Places) -> list[str]:
    if shift is False:
        return []
    places = first_convolutions(network) if shift is True else select(network, shift)
    if not places:
        raise ValueError(
            f"{type(network).__name__} has no residual block with a convolution: name the convolutions to "
            "shift before, as in shift=['blocks.*.conv1'], or pass shift=False"
        )
    return places
