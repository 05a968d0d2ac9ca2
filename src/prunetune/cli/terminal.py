"""What the verbs write to the terminal."""

import io
import sys

import typer

from prunetune.errors import printable


def say(text: object, err: bool = False) -> None:
    """Print lines; what they quote of files and of other machines reaches no terminal as a command to it."""
    typer.echo(printable(text), err=err)


def escape_what_an_encoding_lacks() -> None:
    """Let no line end the program because a stream's encoding (cp1252, ASCII) lacks one of its characters."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
