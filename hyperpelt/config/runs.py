"""A run's settings read from YAML and `key=value` pairs, written as YAML, and listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hyperpelt.config.overrides import Override, parse_overrides
from hyperpelt.config.paths import of_the_hub, place, present
from hyperpelt.config.settings import Mixing, RunConfig
from hyperpelt.config.text import explain, read_yaml, split_paths
from hyperpelt.errors import UserError

NOT_FROM_THE_HUB: dict[str, Any] = {"plugins": [], "data_root": None, "features_dir": None, "from_run": None}


def build_run(values: Mapping[str, Any], *, where: str = "", lines: Mapping[str, int] | None = None) -> RunConfig:
    """A checked RunConfig of plain values. `where` (a file) and `lines` (key -> line) serve the error messages."""
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(explain(error, RunConfig, where=where, lines=lines or {})) from None


def load_run(path: str | Path | None, overrides: Sequence[Override] = ()) -> RunConfig:
    """Read RUN.yaml (or a run folder's run.yaml), apply overrides in order, and check the result.

    An override is a text `key=value` (see `overrides`), or a pair (key, value), taken as it is. Without a path,
    everything comes from the overrides. A run that lies elsewhere than its settings say (it was copied or moved) is
    the run in the folder that is given, and its plugins are the copies in there where the originals are absent. A run
    from the hub has no plugins, which are code, and none of the paths of the machine that made it.

    Raises UserError for a file that is absent or no YAML, an unknown key, a value of a wrong type.
    """
    values, lines = read_yaml(place(path)) if path is not None else ({}, {})
    folder = run_folder(place(path)) if path is not None else None
    if folder is not None:
        values["output_dir"] = str(folder)
        plugins = split_paths(values.get("plugins"))
        if isinstance(plugins, list):
            values["plugins"] = [present(folder, one) if isinstance(one, str) else one for one in plugins]
    if path is not None and of_the_hub(place(path)):
        values |= NOT_FROM_THE_HUB
    changed = parse_overrides(values, overrides, RunConfig)
    kept = {key: line for key, line in lines.items() if key.split(".")[0] not in changed}
    return build_run(values, where=str(path) if path is not None else "", lines=kept)


def run_folder(path: Path) -> Path | None:
    """The run folder that a path means: itself, or the one of the run.yaml that it is; None for settings alone."""
    if path.is_dir():
        return path
    trained = any((path.parent / name).exists() for name in ("checkpoints", "results.json"))
    return path.parent if path.name == "run.yaml" and trained else None


def to_yaml(config: RunConfig) -> str:
    """The run as YAML with every default filled in; `load_run` reads it back to an equal config."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def keys() -> list[dict[str, Any]]:
    """Every key with its type, default and description, for `--help` and the documentation."""
    rows: list[dict[str, Any]] = []
    for model, prefix in ((RunConfig, ""), (Mixing, "mixing.")):
        schema = model.model_json_schema()["properties"]
        for name, field in model.model_fields.items():
            if name == "mixing":
                continue
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            kind = schema[name].get("type") or "/".join(
                dict.fromkeys(str(option.get("type", "text")) for option in schema[name].get("anyOf", [{}]))
            )
            row = {"key": prefix + name, "type": kind, "default": default, "required": field.is_required()}
            rows.append({**row, "choices": schema[name].get("enum"), "description": field.description or ""})
    return rows
