"""Hooks of the documentation site: pages generated from the code, and links to files outside of docs/.

mkdocs calls `on_files` and `on_page_markdown`. A page asks for generated text by a line such as
`<!-- generated: cli -->`. Links are written as they work in the repository; what they lead to outside of docs/ becomes
a part of the site.
"""

import ast
import importlib
import inspect
import os
import posixpath
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from mkdocs.structure.files import File
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
LONG_LIST = 6  # a default of as many entries shows the first two and the last
STUDIES = "studies/README.md"  # a page of the site that lies outside of docs/
GENERATED = re.compile(r"<!-- generated: (\w+)(?: ([\w./-]+))? -->")
_LINK = re.compile(r"(\]\(|src=\")([^)\"#\s]+)(#[^)\"]*)?([)\"])")
_SECTIONS = ("Spec", "RecipeSpec", "ScheduleSpec", "MaskSpec", "ArmSpec", "ScopeSpec", "Rounds", "SeedRange")
SPEC_MODELS = (*_SECTIONS, "VerdictRule", "PretrainingSpec", "PretrainedSpec", "ScaledSpec")


def on_files(files: Any, config: Any) -> Any:
    """Add the page of the studies, and every file outside of docs/ that a page links to."""
    pages = [ROOT / STUDIES, *sorted((ROOT / "docs").rglob("*.md"))]
    outside = {STUDIES, *(target for page in pages for target in _targets(page) if not target.startswith("docs/"))}
    for target in sorted(outside - {"README.md"}):
        files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in what is generated, and turn links of the repository into links of the site."""
    own = page.file.src_uri
    source = own if own == STUDIES else f"docs/{own}"

    def moved(link: re.Match[str]) -> str:
        target = _in_repository(source, link[2])
        if target is None:
            return link[0]
        target = "index.md" if target == "README.md" else target.removeprefix("docs/")
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(own) or '.')}{link[3] or ''}{link[4]}"

    return GENERATED.sub(lambda wanted: "\n".join(generated(wanted[1], wanted[2])), _LINK.sub(moved, markdown))


def generated(what: str, name: str | None = None) -> Iterator[str]:
    """The lines of Markdown for a `generated` comment: `cli`, `fields`, `file` of the repository, `api` of a module."""
    if what == "cli":
        return command_line()
    if what == "fields":
        return spec_fields()
    if what == "file":
        return shown_file(ROOT / str(name))
    return api(str(name))


def shown_file(path: Path) -> Iterator[str]:
    """A file as a block of code."""
    yield from (f"```{ {'.py': 'python', '.yaml': 'yaml'}[path.suffix] }", path.read_text().rstrip("\n"), "```")


def command_line() -> Iterator[str]:
    """Every command with its help, arguments and options, as typer has them."""
    from prunetune.cli.main import app

    group = typer.main.get_command(app)
    yield from _command("prunetune", group)


def _command(name: str, command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    pieces = " ".join(command.collect_usage_pieces(context))
    yield from (f"## {name}", "", *_help(command.help or ""), "", "```text", f"{name} {pieces}", "```", "")
    parameters = [p for p in command.params if not p.hidden]
    if parameters:
        yield from ("| argument or option | meaning | default |", "|---|---|---|")
        yield from (_parameter(parameter) for parameter in parameters)
        yield ""
    for own, inner in getattr(command, "commands", {}).items():
        yield from _command(f"{name} {own}", inner)


def _help(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        command, _, note = line.strip().partition("    ")
        shown = f"`{command}` {note.strip()}".rstrip() if command.startswith("prunetune ") else line.strip()
        yield shown


def _parameter(parameter: Any) -> str:
    metavar = parameter.metavar or ""
    takes_value = parameter.param_type_name == "option" and not getattr(parameter, "is_flag", False)
    names = parameter.opts if parameter.param_type_name == "option" else [metavar or parameter.name.upper()]
    name = ", ".join([*names, *parameter.secondary_opts])
    name = f"{name} {metavar or 'VALUE'}" if takes_value else name
    default = "required" if parameter.required else _default(parameter.default or None)
    return _row(f"`{name}`", parameter.help or "", default)


def spec_fields() -> Iterator[str]:
    """Every field of a study with its type, default and description, from the pydantic models."""
    spec = importlib.import_module("prunetune.spec")
    for name in SPEC_MODELS:
        model: type[BaseModel] = getattr(spec, name)
        described = descriptions(model)
        yield from (f"## {name}", "", inspect.getdoc(model) or "", "")
        yield from ("| field | type | default | meaning |", "|---|---|---|---|")
        for field, info in model.model_fields.items():
            default = _default(None if info.is_required() else info.get_default(call_default_factory=True))
            if info.is_required() and "by default" not in described[field]:  # a study's name is made of its parts
                default = "required"
            yield _row(f"`{field}`", _type(info.annotation), default, described[field])
        yield ""


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field of a model."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    pairs = pairwise(tree.body if isinstance(tree, ast.ClassDef) else [])
    return {
        field.target.id: below.value.value
        for field, below in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


_TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false", dict: "mapping", Any: "any"}


def _type(annotation: Any) -> str:
    """A type as a person who writes YAML would say it.

    >>> _type(tuple[float, ...] | None), _type(Literal["sgd", "adam"])
    ('list of number, or null', '`sgd`, `adam`')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, UnionType):
        return ", or ".join("null" if choice is type(None) else _type(choice) for choice in inner)
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    kind = origin or annotation
    if inspect.isclass(kind) and issubclass(kind, BaseModel):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    return _TYPES.get(kind, "text or mapping")


def _default(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, BaseModel):
        return "its own"
    if isinstance(value, tuple):
        shown = [str(getattr(entry, "kind", entry)) for entry in value]
        value = f"[{', '.join(shown if len(shown) < LONG_LIST else [*shown[:2], '…', shown[-1]])}]"
    return f"`{getattr(value, 'name', value)}`"


def _row(*cells: str) -> str:
    escaped = [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def api(module: str) -> Iterator[str]:
    """One mkdocstrings block for each public name of a module."""
    for name in importlib.import_module(module).__all__:
        yield from (f"::: {module}.{name}", "")


def _targets(page: Path) -> Iterator[str]:
    source = page.relative_to(ROOT).as_posix()
    for link in _LINK.finditer(page.read_text()):
        target = _in_repository(source, link[2])
        if target and (ROOT / target).is_file():
            yield target


def _in_repository(source: str, link: str) -> str | None:
    """The path in the repository that a relative link of a page leads to; None for a link to elsewhere."""
    if re.match(r"[a-z]+:", link):
        return None
    return os.path.normpath(posixpath.join(posixpath.dirname(source), link)).replace(os.sep, "/")
