"""How a masked model ships: measured, exported, shrunk."""

from prunetune.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
