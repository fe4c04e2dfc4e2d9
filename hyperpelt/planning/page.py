"""A plan for people: tables, and a picture of memory by part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperpelt.config.sizes import as_text
from hyperpelt.errors import UserError, counted
from hyperpelt.files.atomic import replacing
from hyperpelt.planning.plan import Plan

PARTS = ("backbone, frozen", "trained values", "optimiser", "gradients", "kept for backward", "the rest at its peak")


def about(plan: Plan) -> str:
    """What was planned, in a sentence."""
    shape, config, spread = plan.costs.shape, plan.config, plan.spread
    precision = config.precision + (f", weights in {config.quantization}" if config.quantization else "")
    shared = f"{spread.processes} processes{', frozen layers sharded' if spread.fsdp else ''}, each sending "
    shared += f"{as_text(spread.sent(plan.costs))} a step"
    mixed = counted(shape.num_tasks, "task") + (" mixed" if shape.num_tasks > 1 else "")
    return (
        f"{config.backbone}, {precision}, {shape.rows} rows x {shape.source} tokens, all full, {shape.target} "
        f"target tokens, {mixed}, {shared if spread.processes > 1 else 'one process'}."
    )


def parts(plan: Plan) -> dict[str, int]:
    """Bytes of one process at a step's peak, by part, adding up to what it holds."""
    costs, held = plan.costs, plan.spread.held(plan.costs)
    standing = [costs.frozen, costs.trained, costs.optimizer, costs.gradients, costs.kept]
    standing[0] -= costs.peak - held  # what FSDP leaves to the others
    rest = max(0, held - sum(standing))
    return dict(zip(PARTS, [*standing, rest], strict=True))


def memory_rows(plan: Plan) -> list[dict[str, str]]:
    """Where the bytes are."""
    rows = [{"what": name, "bytes": as_text(size)} for name, size in parts(plan).items()]
    costs = plan.costs
    return [
        *rows,
        {"what": "one process holds at most", "bytes": as_text(plan.spread.held(costs))},
        {"what": "alive while choices are scored", "bytes": as_text(costs.scoring)},
        {"what": "alive while the last token is written", "bytes": as_text(costs.writing)},
    ]


def work_rows(plan: Plan) -> list[dict[str, str]]:
    """What a micro-batch multiplies and moves, by part."""
    whole = plan.costs.work["step"]
    return [
        {
            "part of a step": part,
            "GFLOP": f"{work.flops / 1e9:,.0f}",
            "share": f"{100 * work.flops / max(1, whole.flops):.0f} %",
            "bytes moved": as_text(max(0, work.traffic)),
        }
        for part, work in plan.costs.work.items()
    ]


def spared(plan: Plan) -> str:
    """Why the parts of a step are more than the step, where they are; else ''."""
    work = plan.costs.work
    if "tuners" not in work or work["tuners"].flops >= 0:
        return ""
    return (
        "The backbone is counted alone, down to the gradient of its inputs. This method has nothing below its first "
        "tuners that needs it, and a step spares more there than the tuners take."
    )


def compared(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """One row a method."""
    rows = []
    for plan in plans:
        costs = plan.costs
        row: dict[str, Any] = {
            "backbone": plan.config.backbone,
            "method": plan.method,
            "trained": costs.values,
            "kept": as_text(costs.kept),
            "holds": as_text(plan.spread.held(costs)),
            "TFLOP": f"{costs.work['step'].flops / 1e12:.2f}",
            "sent a step": as_text(plan.spread.sent(costs)),
        }
        row |= {f"rows in {size}": rows_ for size, rows_ in plan.fits.items()}
        rows.append(row | {"estimate, ms": "-" if plan.seconds is None else f"{1000 * plan.seconds:,.0f}"})
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a table of a document."""
    heads = list(rows[0])
    body = (
        " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()) for row in rows
    )
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join('---' for _ in heads)}|", *(f"| {line} |" for line in body)]
    return "\n".join(lines) + "\n"


def picture(plans: Sequence[Plan], path: Path) -> None:
    """Memory by part, one bar a plan, as SVG or whatever the file's ending says.

    Raises:
        UserError: the ending says nothing that can be drawn.
    """
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):  # the path of a backbone may hold dollar signs
        _draw(plans, path)


def _draw(plans: Sequence[Plan], path: Path) -> None:
    from matplotlib.figure import Figure

    figure, kind = Figure(figsize=(8, 1.2 + 0.42 * len(plans)), layout="constrained"), path.suffix[1:].lower() or "svg"
    if kind not in figure.canvas.get_supported_filetypes():
        raise UserError(f"Cannot draw {path}: expected an ending such as .svg, .png or .pdf.")
    axes = figure.add_subplot()
    labels = [f"{plan.method}, {plan.config.backbone}" for plan in plans]
    left = [0.0] * len(plans)
    for part in PARTS:
        sizes = [parts(plan)[part] / 1e9 for plan in plans]
        axes.barh(labels, sizes, left=left, label=part)
        left = [start + size for start, size in zip(left, sizes, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("GB of one process at the peak of a training step")
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind)
