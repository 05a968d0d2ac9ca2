"""A restricted unpickler: reads the pickled batches of CIFAR and nothing that could run code."""

import io
import pickle
from typing import Any

import numpy as np

from prunetune.errors import ConfigError


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into protocol 2: the only use of `_codecs.encode` that is let through."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not admitted")
    return text.encode("latin1")


# numpy's own rebuilders, taken from where it names them today; older and newer numpy pickle them under other modules.
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]  # type: ignore[index]
_FROM_BUFFER: Any = np.empty(0).__reduce_ex__(5)[0]  # type: ignore[index]
ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("_codecs", "encode"): _encode,
}


class _Restricted(pickle._Unpickler):  # the one in Python: the one in C allots room for whatever index a file names
    def persistent_load(self, pid: Any) -> Any:
        """Nothing: these files refer to nothing outside themselves."""
        raise pickle.UnpicklingError("it refers to an object outside itself")

    def find_class(self, module: str, name: str) -> Any:
        """One of ADMITTED, whatever protocol asks for it."""
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not admitted") from None


def load_batch(content: bytes, name: str) -> dict[str, Any]:
    """The dictionary pickled in the file `name`, its keys as str: arrays, lists, strings and numbers only.

    The official files were written by Python 2: their strings arrive as bytes. ConfigError for a damaged file, for
    one that is no dictionary and for one that names anything beyond ADMITTED (nothing of it is run).
    """
    try:
        found = _Restricted(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged stream raises almost anything: EOFError, IndexError, struct.error, ...
        why = str(error) or type(error).__name__
        raise ConfigError(f"data: {name} is damaged or not a CIFAR file: {why}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"data: {name} holds a {type(found).__name__}; a CIFAR file holds a dictionary")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}
