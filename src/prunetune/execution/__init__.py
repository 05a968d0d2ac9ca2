"""Where and how the steps of a study run: order, workers, invariants, cost."""

from prunetune.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
