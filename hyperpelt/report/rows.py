"""What a model confuses, and the rows that it gets most wrong: of each task, folded away until somebody asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from hyperpelt.evaluation.results import Results, TaskResult
from hyperpelt.report.html import table


def sections(results: Results | None) -> Iterator[str]:
    """One fold a task that has anything to show."""
    if results is None:
        return
    found = [(name, list(_of(task))) for name, task in results.tasks.items()]
    shown = [(name, parts) for name, parts in found if parts]
    if not shown:
        return
    yield "<h3>What it gets wrong</h3>"
    for name, parts in shown:
        yield f"<details><summary>{escape(name)}</summary>{''.join(parts)}</details>"


def _of(task: TaskResult) -> Iterator[str]:
    if task.templates:
        yield _templates(task)
    if task.confusion is not None:
        yield confusion_table(task.confusion["choices"], task.confusion["counts"])
    if task.worst:
        yield _worst(task.worst)


def confusion_table(choices: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Gold answers by row, the model's by column; darker where more rows are."""
    heads = "".join(f"<th>{escape(choice)}</th>" for choice in choices)
    lines = []
    for choice, row in zip(choices, counts, strict=True):
        total = sum(row)
        cells = "".join(_cell(count, total, right=choice == other) for count, other in zip(row, choices, strict=True))
        lines.append(f"<tr><td>{escape(choice)}</td>{cells}</tr>")
    head = f"<tr><th>gold \\ answer</th>{heads}</tr>"
    return f'<div class="scroll"><table class="confusion">{head}{"".join(lines)}</table></div>'


def _cell(count: int, total: int, *, right: bool) -> str:
    shade = round(0.75 * count / total, 2) if total else 0
    colour = "46, 125, 50" if right else "198, 40, 40"
    return f'<td style="background: rgba({colour}, {shade})">{count:,}</td>'


def _templates(task: TaskResult) -> str:
    spread, names = task.spread(), list(task.metrics)
    rows = [[name, *(f"{scores[metric]:.2f}" for metric in names)] for name, scores in (task.templates or {}).items()]
    total = ["mean ± sd", *(f"{task.metrics[name]:.2f} ± {spread.get(name, 0.0):.2f}" for name in names)]
    return table(["template", *names], rows, total=total)


def _worst(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whole inputs in a column that wraps."""
    lines = []
    for row in rows:
        gold = row["gold"]
        wanted = " / ".join(map(str, gold)) if isinstance(gold, list | tuple) else str(gold)
        sure = f" ({100 * row['probability']:.0f} %)" if row.get("probability") is not None else ""
        cells = (str(row["row"]), wanted, f"{row['answer']}{sure}", str(row["input"]))
        classes = ("", "text", "text", "text input")
        lines.append("".join(f'<td class="{c}">{escape(cell)}</td>' for c, cell in zip(classes, cells, strict=True)))
    heads = "".join(f"<th>{head}</th>" for head in ("row", "gold", "answer", "input"))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table class="worst"><tr>{heads}</tr>{body}</table></div>'
