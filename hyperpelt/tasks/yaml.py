"""Tasks without code: YAML files, one document a task (or mixture); docs/tasks.md shows every key.

    name: my/nli
    description: If the premise is true, is the hypothesis true?
    source: {hub: namespace/name, config: default}        # or {files: {train: train.csv, test: test.csv}}
    input: "premise: {premise} hypothesis: {hypothesis}"
    choices: [yes, maybe, no]
    label: label
    splits: {held_out: 1000}

Words like yes, no, on and off stay the words they are (YAML 1.1 would make booleans of them). Paths are relative to
the YAML file. Unknown keys name the nearest known one; every message carries file and line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.tasks.collections import ImageFolder, Saved, Streamed
from hyperpelt.tasks.documents import Place, documents
from hyperpelt.tasks.files import Files
from hyperpelt.tasks.jinja import PARTED, JinjaTemplate, read_promptsource
from hyperpelt.tasks.keys import as_mapping, as_number, check_keys, text_at, texts_at
from hyperpelt.tasks.label_names import label_names
from hyperpelt.tasks.sources import Hub, Source
from hyperpelt.tasks.splits import SPLITS, Part, Splits
from hyperpelt.tasks.streams import Stream
from hyperpelt.tasks.template import PLACE, Template
from hyperpelt.tasks.types import Mixture, Task

TASK_KEYS = (
    "name", "description", "source", "input", "target", "label", "labels", "choices", "group", "images", "kind",
    "metrics", "splits", "answer", "templates",
)  # fmt: skip
SOURCE_KEYS = ("hub", "config", "revision", "stream", "files", "options", "types", "saved", "images")
KINDS_OF_SOURCE = ("hub", "files", "saved", "images")
SPLIT_KEYS = (*SPLITS, "halved", "held_out", "fractions", "by", "drop", "seed")
CHOICE_KEYS = ("names_of", "columns", "column")


def load_yaml(path: Path, *, data_root: str | Path | None = None) -> list[Task | Mixture]:
    """The tasks and mixtures of a file. data_root: only for `choices: {names_of: ...}`, which reads label names.

    Raises UserError, with file and line, for the first document that is none.
    """
    found = list(read_yaml(path, data_root=data_root))
    for _, entry in found:
        if isinstance(entry, UserError):
            raise entry
    return [entry for _, entry in found if not isinstance(entry, UserError)]


def read_yaml(path: Path, *, data_root: str | Path | None = None) -> Iterator[tuple[str, Task | Mixture | UserError]]:
    """(file:line, entry) of every document, or the error that makes it none: the others stand all the same.

    Raises UserError for a file that is no YAML or holds no document.
    """
    empty = True
    for line, content in documents(path):
        where, empty = f"{path}:{line}", False
        try:
            with Place(where):
                yield (
                    where,
                    (_mixture(content, where) if "mixture" in content else _task(content, path, where, data_root)),
                )
        except UserError as problem:
            yield where, problem
    if empty:
        raise UserError(f"{path} holds no task.")


def _task(content: Mapping[str, Any], path: Path, origin: str, data_root: str | Path | None) -> Task:
    check_keys(content, TASK_KEYS, "key")
    for key in ("name", "source", "input"):
        if key not in content and not (key == "input" and "templates" in content):
            raise UserError(f"the key {key!r} is missing (a task has name, source, input, and choices or target)")
    if "templates" in content:
        return _templated(content, path, origin)
    source = _source(content["source"], path)
    splits = _splits(content.get("splits", {}))
    choices, own_choices = _choices(content.get("choices"), source, splits, data_root)
    kind = text_at(content, "kind", "generation" if choices is None and not own_choices else "classification")
    label = text_at(content, "label", None if "target" in content else "label")
    return Task(
        name=text_at(content, "name"),
        source=source,
        render=Template(
            input=text_at(content, "input"),
            target=text_at(content, "target", ""),
            label=label,
            labels=_labels(content.get("labels", {}), choices),
            choices=own_choices,
            group=text_at(content, "group", None),
            images=texts_at(content, "images", ()),
        ),
        kind=kind,
        choices=choices,
        metrics=texts_at(content, "metrics", _METRICS.get(kind, ())),
        splits=splits,
        description=text_at(content, "description", ""),
        modalities=("text", "image") if "images" in content else ("text",),
        answer=texts_at(content, "answer", (label,) if label else Template.names(text_at(content, "target", ""))),
        origin=origin,
    )


def _templated(content: Mapping[str, Any], path: Path, origin: str) -> Task:
    """A task with templates in Jinja instead of `input`, `target` and `choices`."""
    for key in ("input", "target", "label", "labels", "choices", "group", "images"):
        if key in content:
            alone = "is text alone, each row by itself: what has more is written in Python (Task, templates=)"
            says = alone if key in ("group", "images") else "says this in them"
            raise UserError(f"{key}: a task with `templates` {says}")
    answer, given = texts_at(content, "answer", ("label",)), content["templates"]
    if isinstance(given, str):
        made = list(read_promptsource((path.parent / given).resolve(), answer))
    else:
        made = [_template(entry, answer) for entry in given] if isinstance(given, list) else []
    if not made:
        raise UserError("templates: expected a list with name and jinja of each, or the path of a promptsource file")
    asked = {template.answer_choices for template in made}
    kind = text_at(content, "kind", "classification" if any(asked) else "generation")
    (only,) = asked if len(asked) == 1 else ("",)
    fixed = bool(only) and "{" not in only and kind == "classification"
    return Task(
        name=text_at(content, "name"),
        source=_source(content["source"], path),
        render=made[0],
        templates=tuple((template.name, template) for template in made),
        kind=kind,
        choices=tuple(text.strip() for text in only.split(PARTED)) if fixed else None,
        metrics=texts_at(content, "metrics", _METRICS.get(kind, ())),
        splits=_splits(content.get("splits", {})),
        description=text_at(content, "description", ""),
        answer=answer,
        origin=origin,
    )


def _template(content: Any, answer: tuple[str, ...]) -> JinjaTemplate:
    content = as_mapping(content, "templates")
    check_keys(content, ("name", "jinja", "answer_choices"), "key of a template")
    choices = content.get("answer_choices", "")
    choices = f" {PARTED} ".join(map(str, choices)) if isinstance(choices, list) else choices
    if not isinstance(choices, str):
        raise UserError(f"answer_choices: expected a text with {PARTED} or a list, got {choices!r}")
    return JinjaTemplate(
        name=text_at(content, "name"), jinja=text_at(content, "jinja"), answer_choices=choices, answer=answer
    )


_METRICS = {
    "classification": ("accuracy",),
    "regression": ("pearson", "spearman"),
    "generation": ("squad_f1", "squad_exact_match"),
}


def _mixture(content: Mapping[str, Any], origin: str) -> Mixture:
    check_keys(content, ("mixture", "rates", "description"), "key")
    rates = content.get("rates")
    if isinstance(rates, Mapping):
        rates = {name: None if rate is None else as_number(rate, f"rates.{name}") for name, rate in rates.items()}
    elif not isinstance(rates, list):
        raise UserError(f"rates: expected a list of task names or a mapping to numbers, got {rates!r}")
    return Mixture(
        name=text_at(content, "mixture"), rates=rates, description=text_at(content, "description", ""), origin=origin
    )


def _source(content: Any, path: Path) -> Source:
    content = as_mapping(content, "source")
    check_keys(content, SOURCE_KEYS, "key of source")
    if sum(kind in content for kind in KINDS_OF_SOURCE) != 1:
        raise UserError(
            "source: expected one of 'hub' (namespace/name), 'files' (split: path), 'saved' and 'images' (a folder)"
        )
    if "saved" in content:
        return Saved(text_at(content, "saved"), path.parent)
    if "images" in content:
        return ImageFolder(text_at(content, "images"), path.parent)
    if isinstance(content.get("stream"), Mapping):
        stated = {name: as_number(rows, f"source.stream.{name}") for name, rows in content["stream"].items()}
        return Stream(_source({key: value for key, value in content.items() if key != "stream"}, path), rows=stated)
    if "stream" in content:
        if "files" in content:
            raise UserError("source.stream: files are streamed with their number of rows, such as {train: 10000000}")
        rows, revision = as_number(content["stream"], "source.stream"), text_at(content, "revision", None)
        return Streamed(text_at(content, "hub"), text_at(content, "config", None), revision=revision, rows=int(rows))
    if "hub" in content:
        return Hub(
            text_at(content, "hub"), text_at(content, "config", None), revision=text_at(content, "revision", None)
        )
    files = as_mapping(content["files"], "source.files")
    options, types = (as_mapping(content.get(key, {}), f"source.{key}") for key in ("options", "types"))
    return Files(files, base=path.parent, options=options, types=types)


def _splits(content: Any) -> Splits:
    content = {content: None} if isinstance(content, str) else dict(as_mapping(content, "splits"))
    check_keys(content, SPLIT_KEYS, "key of splits")
    options: dict[str, Any] = {}
    if "by" in content:
        options["by"] = texts_at(content, "by", ())
    if "drop" in content:
        options["drop"] = as_mapping(content["drop"], "splits.drop")
    if "seed" in content:
        options["seed"] = as_number(content["seed"], "splits.seed")
    parts = {name: _part(content[name], f"splits.{name}") for name in SPLITS if name in content}
    if "halved" in content:
        return Splits.halved(content["halved"] or "validation", **_names(parts, "train"), **options)
    if "held_out" in content:
        rows = 1000 if content["held_out"] is None else as_number(content["held_out"], "splits.held_out")
        return Splits.held_out(rows, **_names(parts, "train", "test"), **options)
    if "fractions" in content:
        shares = {name: float(as_number(content[name], f"splits.{name}")) for name in SPLITS[1:] if name in content}
        return Splits.fractions(content["fractions"] or "train", **shares, **options)
    return Splits(**parts, **options)


def _names(parts: Mapping[str, Any], *allowed: str) -> Mapping[str, Any]:
    for name, part in parts.items():
        if name not in allowed or not (part is None or isinstance(part, str)):
            raise UserError(
                f"splits.{name}: this protocol makes that split itself; only {', '.join(allowed)} may be named"
            )
    return parts


def _part(content: Any, where: str) -> Any:
    if not isinstance(content, Mapping):
        return content
    check_keys(content, ("split", "start", "stop"), f"key of {where}")
    stop = content.get("stop")
    return Part(
        text_at(content, "split"),
        as_number(content.get("start", 0), f"{where}.start"),
        None if stop is None else as_number(stop, f"{where}.stop"),
    )


def _choices(
    content: Any, source: Source, splits: Splits, data_root: str | Path | None
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | str]:
    """(the task's fixed choices, the columns that hold each row's own)."""
    if content is None:
        return None, ()
    if isinstance(content, list):
        for choice in content:
            if not isinstance(choice, str | int | float):
                raise UserError(
                    f"choices: expected texts, got {choice!r}; put a word that YAML reads otherwise in quotes"
                )
        return tuple(map(str, content)), ()
    content = as_mapping(content, "choices")
    check_keys(content, CHOICE_KEYS, "key of choices")
    if len(content) != 1:
        raise UserError("choices: expected a list, or one of 'names_of', 'columns', 'column'")
    if "columns" in content:
        return None, texts_at(content, "columns", ())
    if "column" in content:
        return None, text_at(content, "column")
    return label_names(text_at(content, "names_of"), source, splits, data_root), ()


def _labels(content: Any, choices: tuple[str, ...] | None) -> tuple[tuple[Any, str], ...] | str:
    """Pairs (what the column holds, choice), or `place`."""
    if content == PLACE:
        if choices is not None:
            raise UserError("labels: 'place' is for rows with choices of their own; translate the labels of fixed ones")
        return PLACE
    pairs = tuple((value, str(choice)) for value, choice in as_mapping(content, "labels").items())
    for value, choice in pairs:
        if choices is not None and choice not in choices:
            raise UserError(f"labels: {value!r} is translated to {choice!r}, which is no choice: {', '.join(choices)}")
    return pairs
