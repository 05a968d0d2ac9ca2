"""The machine and the versions that a record was made with."""

from pathlib import Path
from typing import Any

from prunetune.core.environment import environment

TELLING = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile")  # what decides the fastest kernels


def hardware() -> dict[str, Any]:
    """Everything that a result's environment has, and those of the processor's flags that matter here."""
    return {**environment(), "flags": processor_flags()}


def processor_flags() -> list[str]:
    """Which of the telling flags the processor has; none where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    return [flag for flag in TELLING if flag in found]
