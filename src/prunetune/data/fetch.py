"""Checksums, the cache folder, and downloads that are complete and verified or not there at all."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prunetune.core.files import locked
from prunetune.errors import ConfigError

CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without an answer


def cache_folder() -> Path:
    """Where downloads are kept: $PRUNETUNE_DATA, else ~/.cache/prunetune/data."""
    return Path(os.environ.get("PRUNETUNE_DATA") or "~/.cache/prunetune/data").expanduser()


def checksum(content: bytes, published: str) -> str:
    """Hexadecimal digest of `content` by the algorithm of a published one: MD5 (32 digits) or SHA-256 (64)."""
    hasher = _hasher(published)
    hasher.update(content)
    return hasher.hexdigest()


def digest_files(files: Mapping[str, bytes]) -> str:
    """SHA-256 over names and contents of files, in the order of their names."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return whole.hexdigest()


def download(url: str, target: Path, published: str, what: str) -> None:
    """Fetch `url` to `target`, which appears only once its checksum has been found right.

    One process downloads while others wait. ConfigError, naming `what`, the address and the place to put the file by
    hand, when the network, the folder or the content is not as it must be.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f"{target.name}.lock")):
            if not target.exists():
                _stream(url, target, published)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it carries the connection
        raise ConfigError(
            f"data: {what} is not on this machine and downloading {url} failed ({error}); "
            f"put the file at {target}, or name its folder with data_args.root"
        ) from error


def _stream(url: str, target: Path, published: str) -> None:
    part = target.with_name(f".{target.name}.{os.urandom(8).hex()}.part")
    hasher = _hasher(published)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, part.open("wb") as file:
            while chunk := response.read(CHUNK):
                hasher.update(chunk)
                file.write(chunk)
        if hasher.hexdigest() != published:
            raise OSError(f"wrong checksum {hasher.hexdigest()}, published is {published}")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _hasher(published: str) -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False) if len(published) == 32 else hashlib.sha256()
