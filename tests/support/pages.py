"""Pages as the tests of reports read them: by a parser, and by Chromium where there is one."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import prunetune
from prunetune.report.page import typeset

SCRIPT = (Path(prunetune.__file__).parent / "report" / "page.js").read_text(encoding="utf-8")

VOID = {"meta", "link", "br", "img", "input", "hr"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here to look at the page with")


class Page(HTMLParser):
    """What a page holds, read by the standard library's parser; a tag that is left open is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def without_script(page: str) -> str:
    """A page's text less the one script that it has itself."""
    assert page.count(f"<script>{SCRIPT}</script>") == 1
    return page.replace(f"<script>{SCRIPT}</script>", "")


def plain(text: str) -> str:
    """The text as a page says it, without its setting."""
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", "", typeset(text))))


def browse(tmp_path: Path, address: Path, *options: str) -> bytes:
    assert BROWSER is not None
    quiet = (
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    )
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        *quiet,
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run([*command, *options, address.as_uri()], capture_output=True, timeout=120, check=True)
    return done.stdout
