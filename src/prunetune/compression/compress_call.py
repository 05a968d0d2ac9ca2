"""`pt.compress`: what `prunetune prune` does, in one call from Python."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType

from prunetune.api import followed, require_followers, require_overrides
from prunetune.compression.compress_models import Shipped, plan_compression, preflight_compression, run_compression
from prunetune.compression.exported_files import require_formats
from prunetune.errors import ConfigError
from prunetune.execution.events import Event
from prunetune.sparsity.argument_checks import as_count, as_path, as_positive, as_share, require_type
from prunetune.spec.compression import CompressionRequest
from prunetune.spec.load import SpecSource

_ARGUMENTS = {"sparsity": "sparsities", "export": "formats", "set": "overrides"}  # that are not called as the option
_OPTION = re.compile(r"(?<!\w)(?:'[^']*'|\"[^\"]*\"|--(?P<option>[a-z][a-z-]*))")  # or a quoted value, which stays


def compress(
    source: SpecSource = None,
    overrides: Sequence[str] = (),
    *,
    model: str | None = None,
    data: str | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    sparsities: Sequence[float] = (),
    mask: str | None = None,
    pattern: str | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    seeds: int | None = None,
    scale: float | None = None,
    formats: Sequence[str] = (),
    out: str | Path | None = None,
    store: str | Path | None = None,
    jobs: int | None = None,
    device: str = "auto",
    on_event: Callable[[Event], None] = lambda event: None,
    progress: bool | None = None,
) -> Shipped:
    """Prune & fine-tune a model at each of `sparsities`, measure what that costs and wins here, and export it.

    The study is `source` (a preset, a YAML file, a mapping or a Spec; its arms are ignored) with `overrides`, or that
    of a `model` and its `data`: registered names, or `package.module:callable`, since workers build both by themselves.
    All else is as the options of `prunetune prune`; `formats` are those of `--export`. `progress` is that of `audit`.

    Returns:
        The networks with score, size and time, the dense one first, as a table in a notebook; their files; the page.

    Raises:
        ConfigError: For anything that is wrong, before anything is trained.

    >>> import prunetune as pt
    >>> found = pt.compress(model="small", data="fashion-mini", epochs=6, sparsities=[0.8])  # doctest: +SKIP
    """
    with _arguments_named():
        require_overrides(overrides)
        require_followers(on_event, None)
        for name, value in (("model", model), ("data", data), ("mask", mask), ("pattern", pattern)):
            require_type(name, value, (str, NoneType), "a name, such as 'small' or 'package.module:callable'")
        require_type("weights_key", weights_key, (str, NoneType), "a name, such as 'ema' or 'model.state_dict'")
        require_type("sparsities", sparsities, (list, tuple), "a list of shares of weights, such as [0.5, 0.8]")
        require_type("formats", formats, (list, tuple), "a list of formats, such as ['onnx']")
        for name in formats:
            require_type("formats", name, str, "the name of a format, such as 'onnx'")
        require_type("progress", progress, (bool, NoneType), "True, False or None")
        asked = CompressionRequest(
            model=model,
            data=data,
            weights=as_path("weights", weights, "trained.pt") if weights is not None else None,
            weights_key=weights_key,
            sparsities=tuple(as_share("sparsities", one, "a share of weights to prune", 0.8) for one in sparsities),
            mask=mask,
            pattern=pattern,
            epochs=as_count("epochs", epochs, 15) if epochs is not None else None,
            learning_rate=as_positive("learning_rate", learning_rate, 0.01) if learning_rate is not None else None,
            seeds=as_count("seeds", seeds, 5) if seeds is not None else None,
            scale=scale,
        )
        jobs = as_count("jobs", jobs, 2) if jobs is not None else None
        require_formats(formats)
        prepared = plan_compression(source, overrides, asked, store=store, device=device)
        folder = preflight_compression(prepared, formats, out)
    with followed(prepared, on_event, progress) as (follow, _):
        return run_compression(prepared, folder, formats, jobs=jobs, on_event=follow)


@contextmanager
def _arguments_named() -> Iterator[None]:
    """Raise a ConfigError that names options of the command line again, with the names of the arguments instead."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(_OPTION.sub(_argument, str(error))) from error


def _argument(found: re.Match[str]) -> str:
    option = found["option"]
    return _ARGUMENTS.get(option, option.replace("-", "_")) if option else found[0]
