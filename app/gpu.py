"""Hugging Face's ZeroGPU lends a GPU to functions that are marked; elsewhere the mark does nothing."""

try:
    from spaces import GPU as on_gpu
except ImportError:

    def on_gpu(function):
        return function


__all__ = ["on_gpu"]
