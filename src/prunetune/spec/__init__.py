"""What a user may ask for: the fields of a study, presets, scaling."""

from prunetune.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
