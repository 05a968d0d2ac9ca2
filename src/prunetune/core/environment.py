"""The machine and the versions that a result was made with: they decide the last bits of float sums."""

import os
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch

from prunetune import __version__

THREADS_PER_TRAINING = 1
_SAME_EVERYWHERE = ("torch", "numpy", "prunetune")  # within one run
_FREE_TO_DIFFER = ("precision", "device")  # between the steps of one study, by its own settings


def environment() -> dict[str, Any]:
    """This machine as a report shows it."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "prunetune": __version__,
        "threads_per_training": THREADS_PER_TRAINING,
    }


def fingerprint(device: str, precision: str | None) -> dict[str, Any]:
    """What is stored with every result: all that can change its bytes. `precision` is None where nothing is trained."""
    here = environment()
    names = ("cpu", "capability", "python", "torch", "numpy", "prunetune")
    accelerator = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        **{name: here[name] for name in names},
        "device": device,
        "accelerator": accelerator,
        "precision": precision,
        "threads": THREADS_PER_TRAINING,
    }


def versions() -> dict[str, str]:
    """The versions that all workers of one run must have in common."""
    here = environment()
    return {name: str(here[name]) for name in _SAME_EVERYWHERE}


def mixed(fingerprints: Iterable[Mapping[str, Any]]) -> list[str]:
    """What differs between the machines that made these results, one line a property; empty when nothing does."""
    seen: dict[str, set[str]] = {}
    for found in fingerprints:
        for name, value in found.items():
            if value is not None and name not in _FREE_TO_DIFFER:
                seen.setdefault(name, set()).add(str(value))
    return [f"{name}: {', '.join(sorted(values))}" for name, values in sorted(seen.items()) if len(values) > 1]


def cpu_model() -> str:
    """The processor's name as its maker gives it, or the architecture where the system does not tell."""
    return _of_processor("model name") or platform.processor() or platform.machine()


def int8_instructions() -> str:
    """The processor's instructions that add up 8-bit products, as Linux names them, or `none found`."""
    flags = (_of_processor("flags") or _of_processor("Features")).split()
    return ", ".join(flag for flag in flags if "vnni" in flag or flag in _INT8_FLAGS) or "none found"


_INT8_FLAGS = ("amx_int8", "asimddp", "i8mm")


@cache
def _of_processor(field: str) -> str:
    """What Linux says of the first processor; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.partition("\t")[0].strip() == field), "")
