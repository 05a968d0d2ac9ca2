"""The machine's peak on one thread, measured in the same rounds as what is compared with it."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch

from benchmarks.findings import Comparison, Measured, paired
from benchmarks.rounds import Options, Variant
from benchmarks.serving import served

SIDE = 1536  # of the matrices: too large for the inner caches, small enough for many products a second
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def peaks(stack: ExitStack, options: Options) -> list[Variant]:
    """A variant for each precision; its process lives as long as the stack."""
    products, side = (1, 64) if options.quick else (8, SIDE)
    return [
        Variant(_row(precision), stack.enter_context(served(partial(speed, precision, products, side))))
        for precision in DTYPES
    ]


def speed(precision: str, products: int, side: int) -> Callable[[], float]:
    """Floating-point operations a second of products of square matrices: the best of so many."""
    left, right = (torch.randn(side, side).to(DTYPES[precision]) for _ in range(2))

    def once() -> float:
        began = time.perf_counter()
        torch.mm(left, right)
        return 2 * side**3 / (time.perf_counter() - began)

    return lambda: max(once() for _ in range(products))


def with_shares(comparison: Comparison, flops: Callable[[str], int]) -> Comparison:
    """Give each row, in things a second of `flops(its name)` operations each, its share of the peak of its precision.

    Round by round; the peaks themselves are left out of the rows. A name with bf16 in it is bf16, any other f32.
    """
    of_peak = {_row(precision) for precision in DTYPES}
    rows = [_shared(row, comparison, flops(row.name)) for row in comparison.rows if row.name not in of_peak]
    return replace(comparison, rows=tuple(rows))


def peak_note(comparison: Comparison) -> str:
    """The peaks that the shares refer to, in words."""
    found = (f"{precision} {max(comparison[_row(precision)].samples) / 1e9:.0f} GFLOP/s" for precision in DTYPES)
    return f"peak of one thread, the best large matrix product: {', '.join(found)}"


def _row(precision: str) -> str:
    return f"peak {precision}"


def _shared(row: Measured, comparison: Comparison, flops: int) -> Measured:
    precision = "bf16" if "bf16" in row.name else "f32"
    reached = [flops * sample for sample in row.samples]
    return replace(row, shares=paired(reached, comparison[_row(precision)].samples))
