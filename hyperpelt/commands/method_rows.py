"""What `hyperpelt methods` and docs/methods.md say of methods: rows of lists, and parts as a run's YAML has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from hyperpelt.export.merging import how_mergeable
from hyperpelt.methods import FAMILIES, Method, Source, describe, get
from hyperpelt.operations import list_operations

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def row(spec: str | Mapping[str, Any] | Method, backbone: PreTrainedModel, num_tasks: int) -> dict[str, Any]:
    """As `methods.describe`, with `where` (operations and whose tensors) and `mergeable` (`export.merging`)."""
    chosen = get(spec)
    told = describe(chosen, backbone=backbone, num_tasks=num_tasks)
    return told | {"where": where(chosen), "mergeable": how_mergeable(chosen, list_operations(backbone))}


def in_families(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Family -> its rows, without the families that have none."""
    found = {family: [row for row in rows if row["family"] == family] for family in FAMILIES}
    return {family: members for family, members in found.items() if members}


def where(chosen: Method) -> str:
    """Operations by whose tensors they use: `attention, feed_forward: hypernetwork; norms: shared`."""
    places: dict[str, list[str]] = {}
    for part in chosen.parts:
        types = "+".join(dict.fromkeys(chosen.source(name).type for name in part.sources))
        places.setdefault(types, []).extend(pattern for pattern in part.at)
    found = [f"{', '.join(dict.fromkeys(at))}: {types}" for types, at in places.items()]
    found += [] if chosen.side is None else ["beside every layer with a rung: a side network"]
    return "; ".join([*found, *(f"{pattern}: trained in a copy" for pattern in chosen.unfreeze)])


def short_paper(paper: str) -> str:
    """The arXiv number of a paper, or else its name's last words."""
    number = re.search(r"\d{4}\.\d{5}", paper)
    return number[0] if number else paper.rsplit(", ", 1)[-1]


def as_yaml(chosen: Method) -> str:
    """A method as a run's YAML has it, with every setting; what is as it would be without being said is left out."""
    data = chosen.to_dict()
    data["sources"] = {n: source for n, source in data["sources"].items() if source != _unsaid(n)}
    said = {key: value for key, value in data.items() if value or key == "parts"}
    return yaml.safe_dump({"method": said}, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)


def _unsaid(name: str) -> dict[str, Any]:
    """What the name of a source means where `sources` does not have it."""
    try:
        return Source(type=name).to_dict()
    except ValueError:
        return {}
