"""`prunetune bench-kernels`: from which sparsity on sparse kernels are faster than dense ones on this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from prunetune.cli.options import count, counts, joined, names, say, shares


def bench_kernels(
    shape: Annotated[
        list[Any] | None,
        typer.Option(
            parser=names,
            metavar="SHAPE[,SHAPE…]",
            help="Layers: OUTxIN is linear, OUTxINxKxK@SIDE a convolution on images of SIDE x SIDE; may be repeated; "
            "else eight usual ones.",
        ),
    ] = None,
    batch: Annotated[
        list[Any] | None,
        typer.Option(parser=counts, metavar="N[,N…]", help="Examples in a call; may be repeated; else 1,64."),
    ] = None,
    sparsity: Annotated[
        list[Any] | None,
        typer.Option(
            parser=shares,
            metavar="S[,S…]",
            help="Shares of zeros to try; may be repeated; else 0.5,0.7,0.8,0.9,0.95,0.99.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(parser=count, metavar="N", help="Of the processor, for every kernel; else one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all that is measured there, as JSON.")] = None,
) -> None:
    """Print the break-even table of this machine: from how many zeros on a sparse kernel beats a dense one.

    Zeros of an unstructured mask make a network faster only where a kernel skips them, and skipping costs. Each row is
    one layer at one batch size, in two kernels that are called in turns: torch's CSR kernels against torch's dense
    ones and, where it is installed, onnxruntime's; and OpenVINO's sparse int8 against its dense int8, where that is.
    "Faster from" is the least sparsity from which on the lower bound of the speed-up (95 %, paired by round) is above
    1 at all that are tried; "never" says that it is not at the highest. Takes a minute or two on an idle machine.

    To run a network of yours sparse where that is faster, layer by layer: prunetune.deploy.to_sparse_layers.

        prunetune bench-kernels

        prunetune bench-kernels --shape 4096x1024,64x64x3x3@8 --batch 1 --sparsity 0.8,0.9

        prunetune bench-kernels --threads 2 --out kernels.json
    """
    from prunetune.core.environment import cpu_model
    from prunetune.core.files import replace_file
    from prunetune.deploy import break_even
    from prunetune.errors import counted

    shapes = [break_even.LayerShape.parse(text) for text in joined(shape) or break_even.SHAPES]
    batches = joined(batch) or list(break_even.BATCHES)
    sparsities = joined(sparsity) or list(break_even.SPARSITIES)
    cores = threads or 1
    break_even.require_request(shapes, batches, sparsities, cores)
    if out is not None:
        break_even.require_own_file(out)
    for missing in break_even.contests()[1]:
        say(missing, err=True)
    say(f"{cpu_model()}, {counted(cores, 'thread')}; a row is printed when it is measured\n\n{break_even.header()}")
    rows = []
    for row in break_even.break_evens(shapes, batches, sparsities, cores):
        rows.append(row)
        say(break_even.line(row))
    if out is not None:
        replace_file(out, break_even.to_json(rows, cores, sparsities).encode())
