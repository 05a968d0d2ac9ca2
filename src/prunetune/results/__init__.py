"""What an audit returns: its rows, verdicts, and what to train from (docs/reference/store.md has every field)."""

from prunetune.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
