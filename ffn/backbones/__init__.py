"""One network a file, each written once, for one clip ``(B, C, T, H, W)`` of any T >= 1.

To add one: write its file with an entry point under ``@register()``, and import it here.
"""

from ffn.backbones import efficientnet, slowfast, tea, tsm, uniformer

__all__ = ["efficientnet", "slowfast", "tea", "tsm", "uniformer"]
