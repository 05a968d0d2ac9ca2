"""Masks, what is prunable, how the kept weights are chosen and held, and R_p: usable on any nn.Module by itself."""

from prunetune.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
