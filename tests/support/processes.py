"""What runs on this machine, from /proc."""

from pathlib import Path


def workers_of(store: Path) -> list[int]:
    """Process ids of the live workers on a store, from their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"-P" in words and str(store).encode() in words:
            found.append(int(path.parent.name))
    return found
