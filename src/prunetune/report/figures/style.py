"""Drawings as SVG text: files with colours of their own, and the same drawings inside a page that has two themes.

A drawing is made once, in the light theme, each role of colour with a hexadecimal value of its own. Standalone files
keep those on white paper. In a page every value becomes `var(--role)`, so that the page's theme colours the drawing.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prunetune.report.figures.marks import SPACE, write_marks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LINK = "{http://www.w3.org/1999/xlink}href"
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# role -> (light, dark): hues that stay apart under the common colour blindnesses, with 3:1 to the paper or more, and
# 4.5:1 where names are set in them. One colour has one meaning on a page: an arm, a learning rate, a mask algorithm, a
# sparsity (level), a length of training, an R_p (overlap), or being above or below chance. What has an order goes from
# pale to strong.
COLOURS = {
    "ink": ("#1c2733", "#e7edf3"),
    "muted": ("#5a6877", "#9fadbb"),
    "rule": ("#dbe1e7", "#323d49"),
    "paper": ("#ffffff", "#171d24"),
    "ticket": ("#0b62b5", "#62b0ff"),
    "reinit": ("#c4501b", "#ff9a66"),
    "rewind": ("#8b3fa6", "#d79bf0"),
    "finetune": ("#00795a", "#45d1a3"),
    "finetune_chain": ("#3a2a8c", "#7e75f0"),
    "shuffle": ("#8a6a00", "#e3c04d"),
    "other-1": ("#47607a", "#a9c1da"),
    "other-2": ("#a8385f", "#ff93b6"),
    "other-3": ("#647818", "#c0d66a"),
    "other-4": ("#72757c", "#b9bcc4"),
    "other-5": ("#6e2a10", "#bd7a58"),
    "other-6": ("#cf1ebe", "#f4f08a"),
    "mixed-1": ("#966e27", "#c99a45"),
    "mixed-2": ("#83589a", "#b98fd0"),
    "mixed-3": ("#3e7c98", "#83c5e0"),
    "rate-1": ("#7b96b2", "#6d8fb3"),
    "rate-2": ("#2b496d", "#c3dcf7"),
    "rate-3": ("#b6823a", "#d9a75f"),
    "rate-4": ("#6c4615", "#f3dcbb"),
    "mask-1": ("#1f6f8b", "#6cc6e6"),
    "mask-2": ("#9a3b3b", "#f08f8f"),
    "mask-3": ("#4f7a1c", "#a5d35f"),
    "mask-4": ("#6b4fa0", "#b9a2f0"),
    "mask-5": ("#8a5a16", "#e0ac5c"),
    "mask-6": ("#4a4f57", "#c3c9d1"),
    "level-1": ("#1a9ab7", "#14788d"),
    "level-2": ("#157e95", "#1993ae"),
    "level-3": ("#116577", "#1eb1d1"),
    "level-4": ("#0d4c5a", "#62d0e9"),
    "level-5": ("#09333d", "#c1edf6"),
    "length-1": ("#bc70cf", "#a540bf"),
    "length-2": ("#aa4ac3", "#b866cc"),
    "length-3": ("#8b36a1", "#c98cd9"),
    "length-4": ("#6a297a", "#dcb4e6"),
    "length-5": ("#471b52", "#f1e0f5"),
    "overlap-1": ("#e06d19", "#ae5413"),
    "overlap-2": ("#ab5313", "#e46e19"),
    "overlap-3": ("#7b3c0e", "#efa773"),
    "overlap-4": ("#4b2408", "#fae1ce"),
    "above": ("#00687a", "#58c7da"),
    "below": ("#a05a00", "#e9a94e"),
}
_ROLES = {light: role for role, (light, _) in COLOURS.items()}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be read out, searched and set in the reader's font
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that measures are the same on every machine
    "font.size": 10.0,
    "text.parse_math": False,  # names come from users; a dollar sign in one is a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
}


def family(name: str) -> tuple[str, ...]:
    """The roles of what there may be any number of, in turn: `family("mask")` is `mask-1` to `mask-6`."""
    return tuple(role for role in COLOURS if role.startswith(f"{name}-"))


def colour(role: str) -> str:
    """The light value of a role, with which drawings are made."""
    return COLOURS[role][0]


def css_variables(theme: int) -> str:
    """`--role: value;` for every role; theme 0 is light and 1 is dark."""
    return " ".join(f"--{role}: {values[theme]};" for role, values in COLOURS.items())


@contextmanager
def drawing_style() -> Iterator[None]:
    """matplotlib's settings while a figure is drawn or saved; whatever the user has set is back afterwards."""
    import matplotlib as mpl  # costs half a second, which every command would pay

    ink, muted, rule = colour("ink"), colour("muted"), colour("rule")
    colours = {"text.color": ink, "axes.labelcolor": muted, "xtick.color": muted, "ytick.color": muted}
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        settings: Any = {**_STYLE, **colours, "axes.edgecolor": muted, "grid.color": rule}
        mpl.rcParams.update(settings)
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # names are set in the reader's font, not in this
        yield


def standalone(figure: Figure, name: str, title: str, description: str) -> str:
    """The SVG file of a figure: equal figures give equal bytes. `name` makes its ids differ from other figures'."""
    import matplotlib as mpl

    text = io.StringIO()
    figure.patch.set_gid("paper")
    with drawing_style(), mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", facecolor=colour("paper"), metadata={"Date": None})
    root = ET.fromstring(text.getvalue())
    _remove(root, lambda element: element.tag in (f"{{{SPACE}}}metadata", f"{{{SPACE}}}style"))
    _describe(root, name, title, description)
    write_marks(root)
    for element in list(root.iter()):
        _own_ids(element, name)
        _free_fonts(element)
        _lower_subscripts(element)
    return _serialise(root)


def inline(svg: str) -> str:
    """A standalone SVG as an element of an HTML page: no namespaces, no paper, width and colours of its place."""
    root = ET.fromstring(svg)
    _remove(root, lambda element: element.get("id", "").endswith("-paper"))
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SPACE}}}")
        if LINK in element.attrib:
            element.set("href", element.attrib.pop(LINK))
        if "style" in element.attrib:
            element.set("style", _themed(element.attrib["style"]))
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


def _remove(root: ET.Element, unwanted: Callable[[ET.Element], bool]) -> None:
    for parent in list(root.iter()):
        for child in [child for child in parent if unwanted(child)]:
            parent.remove(child)


def _describe(root: ET.Element, name: str, title: str, description: str) -> None:
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc", "font-family": FONTS}
    root.attrib |= {"stroke-linejoin": "round"}
    for tag, text in (("desc", description), ("title", title)):
        element = ET.Element(f"{{{SPACE}}}{tag}", {"id": tag})
        element.text = text
        root.insert(0, element)


def _own_ids(element: ET.Element, name: str) -> None:
    """Prefix ids and the references to them, so that several drawings can stand in one page."""
    if "id" in element.attrib:
        element.set("id", f"{name}-{element.attrib['id']}")
    if LINK in element.attrib:
        element.set(LINK, f"#{name}-{element.attrib[LINK].removeprefix('#')}")
    if "clip-path" in element.attrib:
        element.set("clip-path", element.attrib["clip-path"].replace("url(#", f"url(#{name}-"))


def _free_fonts(element: ET.Element) -> None:
    if "style" in element.attrib:
        element.set("style", re.sub(r"font-family:[^;]*;?\s*", "", element.attrib["style"]))


def _lower_subscripts(element: ET.Element) -> None:
    """Set the T of `θ_T` lower and smaller. `dy` and not `baseline-shift`, which not every browser knows."""
    if element.tag != f"{{{SPACE}}}text" or not (parts := re.split(r"(?<=[Rθ])_(\w)", element.text or ""))[1:]:
        return
    element.text = parts[0]
    for index, part in enumerate(parts[1:]):
        lower = index % 2 == 0
        shift = {"dy": "0.3em", "font-size": "75%"} if lower else {"dy": "-0.225em"}
        ET.SubElement(element, f"{{{SPACE}}}tspan", shift).text = part


def _themed(style: str) -> str:
    return re.sub(
        r"#[0-9a-f]{6}", lambda found: f"var(--{_ROLES[found[0]]})" if found[0] in _ROLES else found[0], style
    )


def _serialise(root: ET.Element) -> str:
    ET.register_namespace("", SPACE)
    ET.register_namespace("xlink", LINK[1:].partition("}")[0])
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
