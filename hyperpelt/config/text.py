"""The text around a run configuration: reading YAML with line numbers, and errors in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpelt.errors import UserError, cut, shown
from hyperpelt.files.plain_yaml import LARGEST, Bounded, NotYaml, parse_one
from hyperpelt.files.reading import read_text

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

# Keys that people bring from other trainers and that no spelling distance would find.
FAMILIAR = {
    "bf16": "precision=bf16",
    "fp16": "precision",
    "batch_size": "per_device_train_batch_size",
    "checkpointing": "gradient_checkpointing",
    "activation_checkpointing": "gradient_checkpointing",
    "epochs": "num_train_epochs",
    "eval_strategy": "eval_steps (a number; null: only at the end)",
    "generation_num_beams": "num_beams of the task",
    "group_by_length": "length_window",
    "label_smoothing_factor": "label_smoothing",
    "logging_steps": "log_steps",
    "metric_for_best_model": "metric_for_best",
    "save_strategy": "save_steps (a number; null: only at the end)",
    "lr": "learning_rate",
    "load_best_model_at_end": "metric_for_best",
    "model": "backbone",
    "model_name_or_path": "backbone",
    "no_cuda": "use_cpu",
    "optim": "optimizer",
    "overwrite_output_dir": "overwrite",
    "resume_from_checkpoint": "resume",
    "steps": "max_steps",
    "temperature": "mixing.temperature",
    "warmup_ratio": "warmup_steps (below 1 it is a share of all steps)",
}
EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "none": "null",
}


class Tagless(Bounded):
    """Reads plain values, and `!glue/wnli` as the text that it is: an exclusion, no tag of YAML."""

    def fetch_tag(self) -> None:
        self.fetch_plain()


def split_names(value: Any) -> Any:
    """'glue/rte, glue/cola' -> a list, so that lists can be written on a command line."""
    if isinstance(value, str):
        return [name for name in value.replace(",", " ").split() if name]
    return value


def split_paths(value: Any) -> Any:
    """'a.py, b.py' -> a list, and a path that is there stays whole, whatever stands in its name."""
    if not isinstance(value, str):
        return value
    if Path(value).expanduser().exists():
        return [value]
    pieces = [piece.strip() for piece in value.split(",") if piece.strip()]
    return [one for piece in pieces for one in ([piece] if Path(piece).expanduser().exists() else piece.split())]


# ---------------------------------------------------------------------------------------------------------- reading


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """A run file's values, and the line of each key (dotted). A run folder stands for the run.yaml inside it."""
    if path.is_dir():
        path = path / "run.yaml"
    try:
        node, values = parse_one(read_text(path, largest=LARGEST), Tagless)
    except FileNotFoundError:
        if (path.parent / "config.json").is_file() and path.name == "run.yaml":
            raise UserError(f"{path.parent} holds a model, and no run.yaml with the settings of a run.") from None
        raise UserError(f"Run file {path} does not exist{_near_files(path)}.") from None
    except NotYaml as error:
        place = f"{path}, line {error.line}" if error.line else str(path)
        raise UserError(f"{place}: not valid YAML ({cut(error.problem)}).") from None
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of keys to values at the top, got {_kind(values)}.")
    return values, _key_lines(node, path)


def _near_files(path: Path) -> str:
    names = [entry.name for entry in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1) or names[:1]
    return f"; {path.parent / near[0]} does" if near else ""


def _key_lines(node: Any, path: Path, prefix: str = "") -> dict[str, int]:
    """Dotted key -> line number; a key written twice is an error (YAML would silently keep the second)."""
    lines: dict[str, int] = {}
    for key, value in node.value:
        if key.id != "scalar":
            continue
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise UserError(f"{path}, line {line}: key {name!r} is already set in line {lines[name]}.")
        lines[name] = line
        if value.id == "mapping":
            lines |= _key_lines(value, path, f"{name}.")
    return lines


# ----------------------------------------------------------------------------------------------------------- errors


def explain(error: ValidationError, model: type[BaseModel], *, where: str, lines: Mapping[str, int]) -> str:
    """Pydantic's findings as sentences: one a key, at most five."""
    grouped: dict[str, list[Any]] = {}
    for finding in error.errors(include_url=False):
        grouped.setdefault(_key_of(finding["loc"], model), []).append(finding)
    for key in [key for key in grouped if any(other.startswith(f"{key}.") for other in grouped)]:
        del grouped[key]  # the finding inside it says more
    sentences = []
    for key, findings in list(grouped.items())[:5]:
        place = f"{where}, line {lines[key]}: " if key in lines else f"{where}: " if where else ""
        sentences.append(place + _sentence(key, findings, model))
    if len(grouped) > 5:
        sentences.append(f"... and {len(grouped) - 5} more.")
    return "\n".join(sentences)


def _key_of(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """The dotted key of a finding. Pydantic adds the names of union members, which nobody wrote: they are dropped."""
    if not location:
        return ""
    head, *rest = location
    inner = getattr(model.model_fields.get(str(head)), "annotation", None)
    if rest and isinstance(inner, type) and hasattr(inner, "model_fields"):
        return f"{head}.{_key_of(tuple(rest), inner)}"
    if rest and head == "tasks" and str(rest[0]).startswith("dict"):
        return f"tasks.{rest[1]}" if len(rest) > 1 else "tasks"
    return str(head)


def _sentence(key: str, findings: list[Any], model: type[BaseModel]) -> str:
    first = findings[0]
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        return _unknown_key(key, model)
    if kind == "missing":
        return f"{key} is missing ({_description(key, model)}); write for example {key}={_EXAMPLE.get(key, '...')}."
    if kind == "value_error":
        message = str(first["ctx"]["error"])
        return message if message.endswith(".") else f"{key} should be {message}; got {shown(value)}."
    expected = " or ".join(dict.fromkeys(_expected(finding) for finding in findings))
    return f"{key} should be {expected}, got {shown(value)} ({_kind(value)})."


_EXAMPLE = {"tasks": "glue/rte", "output_dir": "runs/first"}


def _description(key: str, model: type[BaseModel]) -> str:
    return model.model_fields[key].description or key


def _unknown_key(key: str, model: type[BaseModel]) -> str:
    *outer, name = key.split(".")
    for part in outer:
        inner: Any = getattr(model.model_fields.get(part), "annotation", None)
        if not hasattr(inner, "model_fields"):  # a key that holds a dot itself: "a.b": 3
            return f"Unknown key {shown(key)}. Known: {', '.join(model.model_fields)}."
        model = inner
    options = list(model.model_fields)
    if outer and name in options:  # one that was written as on the command line
        return f"Unknown key {shown(key)}: in a file it stands below {outer[-1]}, `{outer[-1]}: {{{name}: ...}}`."
    if not outer and name in FAMILIAR:
        return f"Unknown key {key!r}. Did you mean {FAMILIAR[name]}?"
    near = get_close_matches(name, options, n=1, cutoff=0.85) or get_close_matches(name, options, n=2, cutoff=0.55)
    if near:
        return (
            f"Unknown key {shown(key)}. Did you mean {' or '.join(repr('.'.join([*outer, match])) for match in near)}?"
        )
    return f"Unknown key {shown(key)}. Known: {', '.join(options)}."


def _expected(finding: Any) -> str:
    kind, context = finding["type"], finding.get("ctx", {})
    if kind == "literal_error":
        return f"one of {context['expected']}".replace(" or ", ", ")
    bounds = {"greater_than": "more than", "greater_than_equal": "at least"}
    bounds |= {"less_than": "less than", "less_than_equal": "at most"}
    if kind in bounds:
        limit = next(iter(context.values()))
        return f"{bounds[kind]} {limit}"
    return EXPECTED.get(kind.split("_")[0], str(finding["msg"]).lower())


def _kind(value: Any) -> str:
    """What came, in the words of YAML."""
    names = {bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
