"""Training: the loop that every network is trained by, its recipe, augmentation and ADMM's penalty."""

from prunetune.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
