"""`pt.compress`: what `prunetune prune` does, in one call from Python."""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TypeVar

from prunetune.api import Prepared, followed, require_followers, require_overrides
from prunetune.compression.budget_plan import Search, plan_search, preflight_search
from prunetune.compression.budget_search import run_search
from prunetune.compression.compress_models import Shipped, plan_compression, preflight_compression, run_compression
from prunetune.compression.exported_files import require_formats
from prunetune.errors import ConfigError
from prunetune.execution.events import Event
from prunetune.sparsity.argument_checks import (
    as_count,
    as_number,
    as_path,
    as_positive,
    as_share,
    require_type,
    wrong_type,
)
from prunetune.spec.compression import CompressionRequest
from prunetune.spec.compression_budget import Quantity, read_budget
from prunetune.spec.load import SpecSource

T = TypeVar("T")
E = TypeVar("E")
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
    max_drop: float | None = None,
    speedup: float | str | None = None,
    latency: str | None = None,
    macs: float | str | None = None,
    size: str | None = None,
    params: float | str | None = None,
    out: str | Path | None = None,
    store: str | Path | None = None,
    jobs: int | None = None,
    device: str = "auto",
    on_event: Callable[[Event], None] = lambda event: None,
    progress: bool | None = None,
) -> Shipped:
    """Prune & fine-tune a model at each of `sparsities`, measure what that costs and wins here, and export it.

    With `max_drop` find the smallest or fastest network that scores at most so much worse, with confidence, or the one
    that also reaches `speedup`, `latency` ('5ms'), `macs`, `size` ('1MB') or `params` (docs/explanation/budget.md).

    The study is `source` (a preset, a YAML file, a mapping or a Spec; its arms are ignored) with `overrides`, or that
    of a `model` and its `data`: registered names, or `package.module:callable`, since workers build both by themselves.
    All else is as the options of `prunetune prune`; `formats` are those of `--export`. `progress` is that of `audit`.

    Returns:
        The networks with score, size and time, the dense one first, as a table in a notebook; their files; the page.
        Of a search within a budget the dense network and the one that is returned, if there is one.

    Raises:
        ConfigError: For anything that is wrong, before anything is trained.

    >>> import prunetune as pt
    >>> found = pt.compress(model="small", data="fashion-mini", epochs=6, sparsities=[0.8])  # doctest: +SKIP
    """
    targets: dict[Quantity, str | float | None] = {
        "speedup": speedup,
        "latency": latency,
        "macs": macs,
        "size": size,
        "params": params,
    }
    with _arguments_named():
        require_overrides(overrides)
        require_followers(on_event, None)
        for name, value, examples in (
            ("model", model, "'small' or 'package.module:callable'"),
            ("data", data, "'fashion-mini' or 'package.module:callable'"),
            ("mask", mask, "'one_shot' or 'gradual'"),
            ("pattern", pattern, "'unstructured' or '2:4'"),
            ("weights_key", weights_key, "'ema' or 'model.state_dict'"),
        ):
            require_type(name, value, (str, NoneType), f"a name, such as {examples}")
        require_type("sparsities", sparsities, (list, tuple), "a list of shares of weights, such as [0.5, 0.8]")
        require_type("formats", formats, (list, tuple), "a list of formats, such as ['onnx']")
        for name in formats:
            require_type("formats", name, str, "the name of a format, such as 'onnx'")
        require_type("progress", progress, (bool, NoneType), "True, False or None")
        asked = CompressionRequest(
            model=model,
            data=data,
            weights=_unless_none(as_path, "weights", weights, "trained.pt"),
            weights_key=weights_key,
            sparsities=tuple(as_share("sparsities", one, "a share of weights to prune", 0.8) for one in sparsities),
            mask=mask,
            pattern=pattern,
            epochs=_unless_none(as_count, "epochs", epochs, 15),
            learning_rate=_unless_none(as_positive, "learning_rate", learning_rate, 0.01),
            seeds=_unless_none(as_count, "seeds", seeds, 5),
            scale=scale,
        )
        budget = read_budget(
            _unless_none(as_number, "max_drop", max_drop, 0.5),
            {quantity: _target_text(quantity, value) for quantity, value in targets.items()},
        )
        jobs = _unless_none(as_count, "jobs", jobs, 2)
        require_formats(formats)
        if budget is None:
            prepared = plan_compression(source, overrides, asked, store=store, device=device)
            folder = preflight_compression(prepared, formats, out)
            train = partial(_train_grid, prepared, folder, formats, jobs)
        else:
            search = plan_search(source, overrides, asked, budget, store=store, device=device)
            folder = preflight_search(search, formats, out)
            train = partial(_train_search, search, folder, formats, jobs)
    return train(lambda part: followed(part, on_event, progress))


Followed = AbstractContextManager[tuple[Callable[[Event], None], object]]


def _train_grid(
    prepared: Prepared, folder: Path, formats: Sequence[str], jobs: int | None, follow: Callable[[Prepared], Followed]
) -> Shipped:
    with follow(prepared) as (hear, _):
        return run_compression(prepared, folder, formats, jobs=jobs, on_event=hear)


def _train_search(
    search: Search, folder: Path, formats: Sequence[str], jobs: int | None, follow: Callable[[Prepared], Followed]
) -> Shipped:
    @contextmanager
    def heard(part: Prepared) -> Generator[Callable[[Event], None]]:
        with follow(part) as (hear, _):
            yield hear

    found = run_search(search, folder, formats, jobs=jobs, follow=heard)
    return Shipped(found.report, found.failures)


def _unless_none(check: Callable[[str, object, E], T], argument: str, value: object, example: E) -> T | None:
    return None if value is None else check(argument, value, example)


def _target_text(quantity: Quantity, value: object) -> str | None:
    """The value as the option of that name takes it."""
    if isinstance(value, bool):
        raise wrong_type(quantity, value, "a number, or a text such as '5ms'")
    require_type(quantity, value, (str, int, float, NoneType), "a number, or a text such as '5ms'")
    return None if value is None else str(value)


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
