"""Methods: named compositions of tuner, operations and weight source. One small file a published method or family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperpelt.methods import (  # noqa: F401  (each registers its methods)
    adalora,
    adapters,
    alphatuning,
    apt,
    baselines,
    conv_adapter,
    dynamic_subset,
    hyperblock,
    hyperdecoders,
    hyperformer,
    hyperpelt,
    hyperprompt,
    kronecker,
    lst,
    mam,
    mixphm,
    pasta,
    prefix_tuning,
    projections,
    self_pt,
    spt,
    taps,
    text_to_lora,
    u_tuning,
    unfreeze_with_care,
    unipelt,
    vera,
    visual,
    vl_adapter,
    vl_hyperpelt,
)
from hyperpelt.methods.assemble import count_trainable
from hyperpelt.methods.base import Method, Part, Source, describe_parts
from hyperpelt.methods.course import Course, Moment, course_type
from hyperpelt.methods.registry import FAMILIES, About, about, files, get, method, method_from_dict, names, settings

__all__ = [
    "FAMILIES",
    "About",
    "Course",
    "Method",
    "Moment",
    "Part",
    "Source",
    "about",
    "course_type",
    "describe",
    "describe_parts",
    "files",
    "get",
    "method",
    "method_from_dict",
    "names",
    "settings",
]


def describe(
    spec: str | Mapping[str, Any] | Method, *, backbone: Any = "mini-bart", num_tasks: int = 8
) -> dict[str, Any]:
    """What a method is and how much it trains on a backbone, as plain data.

    - **backbone**: a name, a folder or hub id (only its configuration is read), or a model
    - returns `name`, `trainable` (values), `percent` (of the backbone), `percent_per_task`, `source`, `operations`
      (number touched), `paper`, `family`, `equations` and `reference` (see `About`), `parameters` (the method's
      settings with their values)
    """
    from hyperpelt.operations import list_operations, select

    chosen = get(spec)
    model = backbone
    if isinstance(backbone, str | Path):
        from hyperpelt.backbones import load_backbone

        model = load_backbone(backbone, from_config=True)
    operations = list_operations(model)
    trainable = count_trainable(chosen, model, operations, num_tasks)
    total = sum(p.numel() for p in model.parameters())
    types = (chosen.source(name).type for part in chosen.parts for name in part.sources)
    touched = {op.name for part in chosen.parts for op in select(operations, part.at)}
    return {
        "name": chosen.name,
        "trainable": trainable,
        "percent": round(100 * trainable / total, 4),
        "percent_per_task": round(100 * trainable / total / num_tasks, 4),
        "source": "+".join(dict.fromkeys(types)) or ("backbone" if chosen.side is None else "side network"),
        "operations": len(touched) if chosen.parts else len(operations) if chosen.unfreeze else 0,
        "paper": chosen.paper,
        "family": (said := about(chosen.name)).family,
        "equations": said.equations,
        "reference": said.reference,
        "parameters": settings(chosen.name),
    }
