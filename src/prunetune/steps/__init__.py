"""The steps of a study: what each of them is, and the graph that they make."""

from prunetune.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
