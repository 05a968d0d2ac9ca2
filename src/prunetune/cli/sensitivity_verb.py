"""`prunetune sensitivity`: how much accuracy each layer alone costs when it is pruned."""

from pathlib import Path
from typing import Annotated, Any

import typer

from prunetune.cli.options import (
    Data,
    Device,
    Jobs,
    Model,
    Set,
    StoreDir,
    WeightsFile,
    WeightsKey,
    count,
    exit_code,
    joined,
    progress_of,
    say,
    shares,
)


def sensitivity(
    source: Annotated[
        str | None, typer.Argument(metavar="[SPEC.yaml|PRESET]", help="A spec; only its dense runs count. Or --model.")
    ] = None,
    model: Model = None,
    data: Data = None,
    weights: WeightsFile = None,
    weights_key: WeightsKey = None,
    pattern: Annotated[
        str,
        typer.Option(
            metavar="PATTERN",
            help="unstructured: one layer at a time; channel: one group of coupled channels at a time.",
        ),
    ] = "unstructured",
    sparsity: Annotated[
        list[Any] | None,
        typer.Option(
            parser=shares,
            metavar="S[,S…]",
            help="Share of the layer to prune, one or a list; may be repeated; else 0.3,0.5,0.7,0.8,0.9,0.95.",
        ),
    ] = None,
    changes: Set = None,
    seeds: Annotated[
        int | None,
        typer.Option(parser=count, metavar="N", help="Dense runs for every learning rate; else the spec's, or one."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where sensitivity.json and .svg go; else no files are written.")
    ] = None,
    store: StoreDir = None,
    jobs: Jobs = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print full digits as JSON.")] = False,
) -> None:
    """Print how much worse the trained network scores with one layer pruned at a time, without retraining.

    Scores are those on held-out examples, which data_args.validation asks for. Only dense networks are trained, those
    that the store lacks; an audit of the same spec has them already.

        prunetune sensitivity quick

        prunetune sensitivity quick --pattern channel --sparsity 0.5,0.9 --out runs/sensitivity

        prunetune sensitivity --model nets:build --weights trained.pt --data cifar10 --set data_args.validation=0.1
    """
    from prunetune.layer_sensitivity import measure_layers, plan_sensitivity, preflight_sensitivity
    from prunetune.spec.compression import CompressionRequest

    prepared = plan_sensitivity(
        source,
        changes or (),
        CompressionRequest(model=model, data=data, weights=weights, weights_key=weights_key, seeds=seeds),
        pattern=pattern,
        sparsities=joined(sparsity),
        store=store,
        device=device,
    )
    folder = preflight_sensitivity(prepared, out)
    with progress_of(prepared, jobs) as progress:
        found = measure_layers(prepared, folder, jobs=jobs, on_event=progress)
    say(found.to_json() if as_json else found)
    raise typer.Exit(exit_code(found.failures, progress.said))
