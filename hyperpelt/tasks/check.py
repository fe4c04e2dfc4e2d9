"""check_task: what a task's author wants to know before anyone trains on it.

Findings have a level: an `error` would fail or mislead a run, a `warning` is worth a look, a `note` is a fact. All rows
of every split are looked at (or a fixed random sample of `limit` rows):

    rows        unreadable or empty splits; rows that do not render or whose images cannot be read, with the reason, by
                split and row number, and by row and file; blank cells; rows that do not render without their answer,
                so that nothing could be predicted
    answers     a choice that never occurs, one class far ahead of the others, the same input with different answers;
                answers of another split that seem to be numbered in another order than train's
    tokens      fixed choices that share their first token or are the start of one another, targets that the tokenizer
                cannot write, shares of inputs and targets that are cut, and the most that can be reached with all that
    leaks       rows of one split that stand in another, exactly or but for case, spacing and punctuation
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.tasks import findings as look
from hyperpelt.tasks import meanings
from hyperpelt.tasks.exchanged import exchanged
from hyperpelt.tasks.files import Files
from hyperpelt.tasks.findings import Finding, Numbered, for_reading
from hyperpelt.tasks.measured import unfit_metrics, unmeasured, untokenised
from hyperpelt.tasks.registry import get
from hyperpelt.tasks.rendering import Example, Naming
from hyperpelt.tasks.spelling import ceiling, lost
from hyperpelt.tasks.types import Examples, Task

SHOWN = 3  # rendered rows, and failures, shown of each split
TOKENISED = 2000  # rows of each split whose tokens are counted, evenly spread: enough for shares


@dataclass(kw_only=True)
class CheckReport:
    """What was found. sizes: rows of each split; balance: {split: {choice: rows}} for fixed choices; lengths:
    {split: {"median", "longest"}} in tokens; ceiling: {split: {metric: points}} of a model that writes exactly the
    targets' tokens; rendered: the first rows of each split as they will be read."""

    task: str
    origin: str
    findings: list[Finding] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    balance: dict[str, dict[str, int]] = field(default_factory=dict)
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)
    ceiling: dict[str, dict[str, float]] = field(default_factory=dict)
    rendered: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No error; warnings are the author's to judge."""
        return all(finding.level != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.task} ({self.origin})"
        for split, size in self.sizes.items():
            counts = self.balance.get(split, {})
            total = max(1, sum(counts.values()))
            shares = ", ".join(f"{choice} {count / total:.1%}" for choice, count in counts.items())
            tokens = ", ".join(f"{name} {n} tokens" for name, n in self.lengths.get(split, {}).items())
            reached = ", ".join(f"{name} {points:.1f}" for name, points in self.ceiling.get(split, {}).items())
            most = f"at most {reached}" if reached else ""
            yield f"  {split:10} {size:7,} rows" + "".join(f"  {part}" for part in (shares, tokens, most) if part)
        for split, rows in self.rendered.items():
            for row in rows:
                text, target = (for_reading(row[key], indent=12) for key in ("input", "target"))
                yield f"\n  {split} row {row['row']}\n    input   {text}\n    target  {target}"
        yield ""
        yield from (f"  {finding}" for finding in _once(self.findings))
        counted = [(level, sum(f.level == level for f in self.findings)) for level in ("error", "warning", "note")]
        total_line = ", ".join(f"{count} {level}{'s' * (count != 1)}" for level, count in counted)
        yield f"  {'ok' if self.ok else 'not ok'}: {total_line}"


def check_task(
    task: str | Task,
    *,
    data_root: str | Path | None = None,
    tokenizer: Any = None,
    max_source_length: int = 128,
    max_target_length: int = 32,
    limit: int | None = None,
) -> CheckReport:
    """Check a task on its data.

    tokenizer: a transformers tokenizer; without one nothing about tokens is checked. Lengths are in tokens. limit:
    rows of each split, a fixed random sample; None for all.

    Raises UserError only for an unknown name: what is wrong with the task or its rows is in the findings.
    """
    task = get(task) if isinstance(task, str) else task
    report = CheckReport(task=task.name, origin=task.origin)
    unfit = list(unfit_metrics(task))
    report.findings += [*unfit, *_definition(task), *meanings.about_metrics(task)]
    splits: dict[str, list[Numbered]] = {}
    failing: dict[str, list[Finding]] = {}
    for split in task.splits.names():
        rows = list(_render(task, split, report, data_root, limit))
        if rows:
            splits[split] = rows
            report.balance[split] = look.balance(task, rows)
            report.findings += [*look.answers(task, split, rows), *meanings.about_answers(task, split, rows)]
            failing[split] = unfit or list(unmeasured(task, split, rows))
            report.findings += [] if unfit else failing[split]
    if tokenizer is not None:
        report.findings += look.first_tokens(task, tokenizer)
        for split, rows in splits.items():
            sample = rows[:: max(1, len(rows) // TOKENISED)]
            num_tokens = look.lengths(sample, tokenizer)
            report.lengths[split] = {"median": sorted(num_tokens)[len(sample) // 2], "longest": max(num_tokens)}
            report.findings += look.tokens(split, sample, num_tokens, tokenizer, max_source_length, max_target_length)
            examples = [example for _, example in sample]
            if not failing[split]:
                report.findings += _reached(task, split, examples, tokenizer, max_target_length, report)
            report.findings += untokenised(split, sample, tokenizer, max_target_length)
    report.findings += look.leaks(splits)
    report.findings += exchanged(task, splits)
    report.findings = [_in_files(task, finding, data_root) for finding in report.findings]
    order = ("error", "warning", "note")
    report.findings.sort(key=lambda finding: order.index(finding.level))
    return report


def _reached(
    task: Task, split: str, examples: Sequence[Example], tokenizer: Any, max_target_length: int, report: CheckReport
) -> Iterator[Finding]:
    """The most that a model can reach that writes with this tokenizer; a warning where the tokenizer lowers it."""
    try:
        report.ceiling[split] = ceiling(task, examples, tokenizer, max_target_length=max_target_length)
        less = lost(task, examples, tokenizer, max_target_length=max_target_length)
    except UserError as error:
        yield Finding(level="error", about="tokens", split=split, message=f"the metrics cannot be computed: {error}")
        return
    for metric, (reached, itself) in less.items():
        message = (
            f"{metric} cannot exceed {reached:.1f} with this tokenizer, which cannot write or tell apart all answers "
            f"within {max_target_length} tokens (the answers themselves score {itself:.1f})"
        )
        yield Finding(level="warning", about="tokens", split=split, message=message)


def _in_files(task: Task, finding: Finding, data_root: str | Path | None) -> Finding:
    """The finding, with the places of its rows in the source's files."""
    if not finding.rows or finding.split is None or task.streamed(finding.split):
        return finding
    places = task.examples(finding.split, data_root=data_root).in_files(finding.rows)
    return replace(finding, message=f"{finding.message}: {places}") if places else finding


def _definition(task: Task) -> Iterator[Finding]:
    if not task.description:
        message = "no description: one sentence that says what is asked serves people, and transfer without examples"
        yield Finding(level="warning", about="rows", message=message)
    if isinstance(task.source, Files):
        read = {task.splits.part(name).split for name in task.splits.names()}
        for unread in (name for name in task.source.splits(None) if name not in read):
            message = f"the source names files for {unread!r}, and the splits take nothing of them: name it in splits"
            example = " (such as held_out: 0.1, test: test)" if unread == "test" else ""
            yield Finding(level="warning", about="rows", message=message + example)


def _render(
    task: Task, split: str, report: CheckReport, data_root: str | Path | None, limit: int | None
) -> Iterator[Numbered]:
    """The rows that render; what does not, or has a bad image, becomes a finding. Images are kept as digests only."""
    try:
        report.sizes[split] = task.streamed(split) or len(task.rows(split, data_root=data_root))
        examples = task.examples(split, data_root=data_root, limit=limit)
    except UserError as error:
        report.findings.append(Finding(level="error", about="rows", split=split, message=_bare(error, task, split)))
        return
    failures: list[str] = []
    blanks = look.Blanks(task)
    report.rendered[split] = shown = list[dict[str, Any]]()
    for number, row in examples.raw():
        try:
            example = task.example(row, split=split, number=number)
            digests = _digests(example, Naming(task.name, split, number, row)) if example.images else ()
        except UserError as error:
            failures.append(_bare(error, task, split))
            continue
        blanks.see(number, row)
        if len(shown) < SHOWN:
            shown.append(_shown(number, example))
        yield number, replace(example, images=digests)
    report.findings += [*_failures(split, failures, len(examples)), *blanks.findings(split)]
    if split == task.splits.names()[-1]:
        report.findings += _unanswered(task, split, examples)


def _shown(number: int, example: Example) -> dict[str, Any]:
    content = {"row": number, "input": example.input, "target": example.target, "label": example.label}
    return content | {"choices": example.choices, "images": len(example.images)}


def _digests(example: Example, where: Naming) -> tuple[bytes, ...]:
    """A digest of each image, all of which can be decoded. Raises UserError that says where for one that cannot."""
    from hyperpelt.vision.images import content_hash, load_image

    with where:
        for image in example.images:
            load_image(image)
        return tuple(bytes.fromhex(content_hash(image)) for image in example.images)


def _failures(split: str, failures: Sequence[str], num_rows: int) -> Iterator[Finding]:
    """One finding for all rows that do not render, with each reason once, by the first row that has it."""
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        reasons.setdefault(failure.partition(": ")[2], []).append(failure)
    shown = [f"{same[0]}" + (f" (and {len(same) - 1} more)" if len(same) > 1 else "") for same in reasons.values()]
    if failures:
        further = len(reasons) - SHOWN
        more = f" | and {further} further reason{'s' * (further > 1)}" if further > 0 else ""
        message = f"{len(failures)} of {num_rows} rows do not render: " + " | ".join(shown[:SHOWN]) + more
        yield Finding(level="error", about="rows", split=split, message=message)


def _bare(error: UserError, task: Task, split: str) -> str:
    """An error's text without the task and split that stand before it anyway: 'row 3: ...'."""
    return re.sub(rf"^Task {re.escape(task.name)}, split {split}(, |: )", "", str(error))


def _once(findings: Sequence[Finding]) -> list[Finding]:
    """What several splits have in common, said once."""
    splits: dict[Finding, list[str]] = {}
    for finding in findings:
        splits.setdefault(replace(finding, split=None), []).extend([finding.split] if finding.split else [])
    return [replace(finding, split=", ".join(found) or None) for finding, found in splits.items()]


def _unanswered(task: Task, split: str, examples: Examples) -> Iterator[Finding]:
    """Rows to predict on come without their answer: the input must render all the same, and not depend on it."""
    number, row = next(examples.raw())
    columns = ", ".join(task.answer)
    question = {name: value for name, value in row.items() if name not in task.answer}
    try:
        asked = task.example(question, answered=False, split=split, number=number).input
    except UserError as error:
        message = f"a row without its answer ({columns}) does not render, so nothing can be predicted: {error}"
        yield Finding(level="warning", about="rows", split=split, message=message)
        return
    try:
        answered = task.example(row, split=split, number=number).input
    except UserError:
        return  # it is among the failures already
    if asked != answered:
        message = f"the input changes when the answer ({columns}) is missing: does it give the answer away?"
        yield Finding(level="error", about="rows", split=split, message=message)
