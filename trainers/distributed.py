"""Several processes, one run: started by torchrun, one process per GPU (or CPU process).

Networks are not wrapped: there is one backward per frequency, and the private norms of one frequency take no
part in another's, so gradients are averaged here, once per step, after the last of them. On one process all of
this does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

BUCKET = 16_000_000  # numbers sent at once


def start(device_name: str) -> str:
    """Join the processes that torchrun started, if it did; the device that this one computes on."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized():
        cuda = torch.cuda.is_available() and device_name in ("auto", "cuda")
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        store, own_rank, size = next(distributed.rendezvous("env://"))
        # Processes that torchrun started anew may meet the store of those before, with their addresses in it.
        store = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        distributed.init_process_group("nccl" if cuda else "gloo", store=store, rank=own_rank, world_size=size)
    if is_distributed() and device_name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"
    return device_name


def stop() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    return distributed.get_rank() if is_distributed() else 0


def world() -> int:
    return distributed.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """Whether this process writes, prints and records."""
    return rank() == 0


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes; one that is missing everywhere stays so.

    Every process must hold gradients of the same parameters, which it does if its tasks draw alike.
    """
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        distributed.all_reduce(flat)
        flat /= world()
        for gradient, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _buckets(tensors: list[Tensor]) -> Iterable[list[Tensor]]:
    bucket, size = [], 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def total(values: list[float], device: torch.device) -> list[float]:
    """The sum over all processes of each of ``values``."""
    if world() == 1:
        return values
    sums = torch.tensor(values, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    distributed.all_reduce(sums)
    return sums.tolist()


def gather(value) -> list:
    """``value`` of every process, in order of rank, on every process."""
    if world() == 1:
        return [value]
    values = [None] * world()
    distributed.all_gather_object(values, value)
    return values


def wait() -> None:
    """Until every process is here: what the main one wrote can be read."""
    if world() > 1:
        distributed.barrier()


class _Sum(torch.autograd.Function):
    """The sum over all processes, through which gradients flow back to each of them."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class SyncBatchNorm(_BatchNorm):
    """BatchNorm whose batch is that of all processes together; torch's own one refuses the CPU.

    Every process must hold as many samples as the others.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(x)
        shape = (1, -1, *[1] * (x.dim() - 2))
        dims = [d for d in range(x.dim()) if d != 1]
        wide = x.float()
        moments = torch.stack([wide.mean(dims), wide.square().mean(dims)])
        mean, square = _Sum.apply(moments) / world()
        variance = square - mean.square()
        with torch.no_grad():
            n = x.numel() // x.shape[1] * world()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * n / max(n - 1, 1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul((self.bias - mean * scale).view(shape), wide, scale.view(shape)).to(x.dtype)


def synchronise_norms(model: nn.Module) -> None:
    """Turn every BatchNorm of ``model`` into a :class:`SyncBatchNorm`, in place, its tensors kept."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = SyncBatchNorm
