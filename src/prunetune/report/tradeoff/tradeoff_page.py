"""All files of a trade-off, and what a terminal shows of it; from its rows, or from an earlier `tradeoff.json`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunetune.core.amounts import scaled, size
from prunetune.core.metric import Metric
from prunetune.errors import counted
from prunetune.report.figures.style import standalone
from prunetune.report.ownership import require_ours
from prunetune.report.page import inlined, render, spec_text
from prunetune.report.results_files import shown_again, write_text
from prunetune.report.table_format import NONE, Column, Table, aligned, number, numeric
from prunetune.report.tables import facts_table
from prunetune.report.tradeoff.best_network import best_text, headline
from prunetune.report.tradeoff.tradeoff_figures import tradeoff_drawings
from prunetune.report.tradeoff.tradeoff_rows import (
    GRAPHS,
    SPARSE,
    TRADEOFF,
    ModelFile,
    ModelRow,
    ParameterDensity,
    Timing,
    Tradeoff,
    canonical,
    not_pruned,
    ratio,
    read_tradeoff,
    tradeoff_json,
    tradeoff_summary,
)
from prunetune.report.write_report import FIGURES, PAGE, write_figures

SPARSE_TIMES = " Networks that keep their channels are timed with sparse layers where these are faster."


@dataclass(frozen=True)
class TradeoffReport:
    """The rows, what they come to in plain words, and the page that shows them."""

    found: Tradeoff
    text: str
    page: Path

    @property
    def rows(self) -> tuple[ModelRow, ...]:
        """The dense network, then one for every sparsity."""
        return self.found.rows

    @property
    def best_files(self) -> tuple[str, ...]:
        """Copies of the best network's files, from the page's folder."""
        return self.found.best_files

    @property
    def headline(self) -> str:
        """What the best network costs and wins, in a few words."""
        return headline(self.found)

    @property
    def table(self) -> Table:
        """Every network, a row each."""
        return rows_table(self.found)


def write_tradeoff(found: Tradeoff, out: Path) -> TradeoffReport:
    """Write tradeoff.json, figures/*.svg and report.html to `out`; ConfigError where it cannot be written."""
    found = canonical(found)
    drawn = tradeoff_drawings(found)
    svgs = {d.name: standalone(d.figure, d.name, d.title, d.description) for d in drawn}
    write_text(out / TRADEOFF, tradeoff_json(found))
    write_figures(svgs, out / FIGURES)
    page = render(
        "tradeoff.html",
        found=found,
        headline=headline(found),
        facts=_facts(found),
        sentences=[*best_text(found), *tradeoff_summary(found)],
        tables=_tables(found),
        figures=inlined([(d, svgs[d.name]) for d in drawn]),
        spec=spec_text(found.study),
        metric=found.metric,
        command=found.environment.get("command"),
    )
    write_text(out / PAGE, page)
    return TradeoffReport(found, tradeoff_text(found), out / PAGE)


def render_tradeoff_again(out: Path) -> TradeoffReport:
    """Write page and figures again from `tradeoff.json` alone."""
    found = read_tradeoff(out / TRADEOFF)
    require_ours(out, [PAGE])
    return shown_again(out / TRADEOFF, lambda: write_tradeoff(found, out))


def tradeoff_text(found: Tradeoff) -> str:
    """The table, the headline and the sentences, what was not pruned and why, and what there is not."""
    blocks = [aligned(rows_table(found, spread=True))] if found.rows else []
    blocks.append("\n".join([f"{headline(found)}.", *best_text(found), *tradeoff_summary(found)]))
    blocks.append("\n".join(_not_pruned(found)))
    blocks.append("\n".join(f"missing: {line}" for line in found.missing))
    return "\n\n".join(filter(None, blocks))


def rows_table(found: Tradeoff, spread: bool = False) -> Table:
    """One row per network, and one for each of its files that is timed by itself.

    With `spread`, the quartiles stand beside the median times.
    """
    batches = [timing.batch for timing in found.rows[0].timings] if found.rows else []
    columns = (
        Column("Network"),
        numeric(found.metric.column),
        numeric("Parameters"),
        numeric("Non-zero"),
        numeric("MACs"),
        numeric("Effective"),
        numeric("File"),
        numeric("Compressed"),
        *(numeric(f"Batch {batch}, ms") for batch in batches),
    )
    caption = (
        f"{found.metric.title} on the test examples; MACs of one example, and those with a weight that is not zero; "
        "the weights as safetensors, and compressed by DEFLATE; the median time of a call."
    )
    body: list[tuple[str, ...]] = []
    for row in found.rows:
        body.append(_cells(row, spread, found.metric))
        body += [_file_cells(row, file, spread, found.metric) for file in row.files if file.timings]
    if len(body) > len(found.rows):
        caption += (
            f" Rows of onnx, of 8 bits and of sparse layers: that file of the network of seed {found.rows[0].seed}, "
            "its size, and what it scores and takes on one thread of the processor, in onnxruntime or, of sparse "
            "layers, in torch."
        )
    return Table(caption, columns, tuple(body))


def _facts(found: Tradeoff) -> list[str]:
    seeds = max((len(row.scores) for row in found.rows), default=1)
    how = [f"{found.mask} masks", f"pattern {found.pattern}", f"learning rate {found.learning_rate:g}"]
    return [found.model, found.data, *how, counted(found.epochs, "epoch"), counted(seeds, "seed")]


def _cells(row: ModelRow, spread: bool, metric: Metric) -> tuple[str, ...]:
    return (
        row.label,
        row.score_text(metric),
        f"{row.parameters:,}",
        f"{row.nonzeros:,}",
        scaled(row.macs),
        scaled(row.effective_macs),
        size(row.raw_bytes),
        size(row.compressed_bytes),
        *(_time(timing, spread) for timing in row.timings),
    )


def _file_cells(row: ModelRow, file: ModelFile, spread: bool, metric: Metric) -> tuple[str, ...]:
    """A file in the columns of its network, whose counts it shares."""
    sizes = size(file.bytes), size(file.compressed_bytes or 0)
    score, times = number(file.score, metric.digits), (_time(timing, spread) for timing in file.timings)
    return (f"{row.label} {file.format}", score, "", "", "", "", *sizes, *times)


def _time(timing: Timing, spread: bool) -> str:
    return milliseconds(timing.median) + (f" [{_quartiles(timing)}]" if spread else "")


def file_text(file: ModelFile) -> str:
    """What was found when a file was read back: `29.13 kB, outputs within 1.4e-06 of torch's, zeros exact`."""
    graph = file.format in GRAPHS
    equal = f"outputs within {file.max_error:.2g} of torch's" if graph else "weights equal"
    sparse = f", {counted(len(file.sparse_layers), 'layer')} run sparse" if file.format == SPARSE else ""
    packed = "" if file.compressed_bytes is None else f" ({size(file.compressed_bytes)} compressed)"
    zeros = "zeros exact" if file.zeros_exact else "zeros not found again"
    return f"{size(file.bytes)}{packed}, {equal}, {zeros}{sparse}"


def milliseconds(seconds: float) -> str:
    """A time in milliseconds for a reader."""
    time = 1000 * seconds
    return f"{time:,.0f}" if time >= 100 else f"{time:.3g}"


def _quartiles(timing: Timing) -> str:
    return f"{milliseconds(timing.low)}, {milliseconds(timing.high)}"


def _tables(found: Tradeoff) -> dict[str, Table]:
    facts = {name: value for name, value in found.environment.items() if name != "command"}
    return {
        "rows": rows_table(found),
        "times": times_table(found.rows),
        "layers": layers_table(found.pruned),
        "files": files_table(found.rows, found.metric),
        "environment": facts_table(facts, "The machine and the versions that this was trained and measured with."),
    }


def times_table(rows: Sequence[ModelRow]) -> Table:
    """Every network at every batch size."""
    columns = (
        Column("Network"),
        numeric("Batch"),
        numeric("Median, ms"),
        numeric("Quartiles"),
        numeric("Times as fast as dense"),
        numeric("Rounds"),
    )
    caption = (
        "Ratios are paired by round: their median, and an interval of at least 95 % for it; of a file that onnxruntime "
        "runs, to the dense network's onnx file there."
        + (SPARSE_TIMES if any(row.sparse_layers for row in rows) else "")
    )
    measured = [(row.label, row.timings, bool(row.sparsity)) for row in rows]
    measured += [
        (f"{row.label} {file.format}", file.timings, bool(row.sparsity) or file.format != "onnx")
        for row in rows
        for file in row.files
    ]
    body = (
        (label, f"{t.batch}", milliseconds(t.median), _quartiles(t), ratio(t) if compared else "", f"{t.rounds}")
        for label, timings, compared in measured
        for t in timings
    )
    return Table(caption, columns, tuple(body))


def layers_table(rows: Sequence[ModelRow]) -> Table:
    """The density of every parameter of every network, and why it was not pruned."""
    columns = (
        Column("Parameter", "code"),
        Column("Of"),
        numeric("Weights"),
        *(numeric(f"Density at {row.label}") for row in rows),
        Column("Not pruned because"),
    )
    densities = [{layer.name: layer for layer in row.layers} for row in rows]
    body = (
        (layer.name, layer.kind, f"{layer.total:,}", *(_density(d, layer.name) for d in densities), layer.reason)
        for layer in (rows[-1].layers if rows else ())
    )
    return Table("Every parameter, and why it was not pruned where it was not.", columns, tuple(body))


def _density(found: dict[str, ParameterDensity], name: str) -> str:
    return f"{found[name].density:.4f}" if name in found else NONE


def files_table(rows: Sequence[ModelRow], metric: Metric) -> Table:
    """Every file, and what was found when it was read back."""
    columns = (
        Column("Network"),
        Column("Format"),
        Column("File", "code"),
        numeric("Size"),
        numeric("Compressed"),
        numeric("Largest error"),
        Column("Zeros exact"),
        numeric("In 8 bits"),
        numeric("Zero of these"),
        numeric(metric.column),
    )
    caption = (
        "Each file was read back and compared with the network; the error of a graph is that of its outputs. "
        "Compressed: by DEFLATE."
    )
    if any(file.score is not None for row in rows for file in row.files):
        caption += (
            " Of what onnxruntime runs, the score there on the test examples, of a sparse file in torch; weights in 8 "
            "bits, and zeros there."
        )
    body = [_file_row(row, file, metric) for row in rows for file in row.files]
    said = [i for i in range(len(columns)) if any(cells[i] for cells in body)]
    return Table(caption, tuple(columns[i] for i in said), tuple(tuple(cells[i] for i in said) for cells in body))


def _file_row(row: ModelRow, file: ModelFile, metric: Metric) -> tuple[str, ...]:
    counts = (f"{count:,}" if count is not None else "" for count in (file.int8_weights, file.int8_zeros))
    return (
        row.label,
        file.format,
        file.path,
        size(file.bytes),
        NONE if file.compressed_bytes is None else size(file.compressed_bytes),
        f"{file.max_error:.2g}",
        "yes" if file.zeros_exact else "no",
        *counts,
        "" if file.score is None else number(file.score, metric.digits),
    )


def _not_pruned(found: Tradeoff) -> list[str]:
    reasons = not_pruned(found.pruned)
    lines = [
        f"  {reason} ({sum(layer.total for layer in layers):,} weights): {', '.join(layer.name for layer in layers)}"
        for reason, layers in reasons.items()
    ]
    return ["Not pruned, by reason:", *lines] if lines else []
