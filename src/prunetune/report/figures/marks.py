"""Marks that say what they are: the series that a mark belongs to, and in words the value that it shows.

matplotlib knows no attributes of an SVG's elements but their ids, so an artist carries both in its id until the file is
written. There they become `data-series`, by which a page hides and shows a series, and a `<title>` in each mark, which
browsers show by themselves and the page's script also to who has no mouse. What names a series has `data-entry`.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist

SPACE = "http://www.w3.org/2000/svg"
_MARK, _ENTRY = "mark:", "entry:"


def name_marks(artist: Artist, series: str, values: Sequence[str] = ()) -> None:
    """Let an artist say its series and the value of each of its markers, in their order; of a shape its only one."""
    artist.set_gid(_MARK + json.dumps([series, *values]))


def name_entry(artist: Artist, series: str) -> None:
    """Let a text, or the sign beside it, say that it names a series: a page makes it the button of that series."""
    artist.set_gid(_ENTRY + json.dumps([series]))


def write_marks(root: ET.Element) -> None:
    """Turn the ids that `name_marks` and `name_entry` gave into attributes and titles."""
    for element in root.iter():
        kind, _, said = element.get("id", "").partition(":")
        if f"{kind}:" in (_MARK, _ENTRY):
            del element.attrib["id"]
            series, *values = json.loads(said)
            element.set("data-series" if f"{kind}:" == _MARK else "data-entry", series)
            marks = list(element.iter(f"{{{SPACE}}}use")) or [element]
            if len(marks) == len(values):  # else some lie outside the drawing, and which is not known
                for mark, value in zip(marks, values, strict=True):
                    title = ET.Element(f"{{{SPACE}}}title")
                    title.text = value
                    mark.insert(0, title)
