"""The tables of docs/methods.md, made from the methods and tuners themselves.

    PYTHONPATH=. python scripts/methods_page.py        # writes them anew; tests/docs holds the page to them

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; all else on the page is written by hand.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path

import torch
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

from hyperpelt import methods
from hyperpelt.commands import method_rows
from hyperpelt.tuners import Tuner, tuner_types

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
TASKS = 8  # as the papers of shared hypernetworks count


def t5_base() -> PreTrainedModel:
    """T5-base without weights."""
    sizes = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "vocab_size": 32128}
    with torch.device("meta"):
        return T5ForConditionalGeneration(T5Config(**sizes))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    lines = [columns, ["---:" if column in right else "---" for column in columns], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def methods_table() -> str:
    """Every method by family, on T5-base."""
    model = t5_base()
    built_in = [name for name in methods.names() if methods.files(methods.get(name))[0].startswith("hyperpelt.")]
    one = {name: methods.describe(name, backbone=model, num_tasks=1)["trainable"] for name in built_in}
    many = [method_rows.row(name, model, TASKS) for name in built_in]
    rows = []
    for family, members in method_rows.in_families(many).items():
        rows.append([f"**{family}**", *[""] * 7])
        for row in members:
            told = [f"{one[row['name']]:,}", f"{row['trainable']:,}", f"{row['percent_per_task']:.3f}"]
            paper = ", ".join(part for part in (row["paper"], row["equations"]) if part)
            rows.append([f"`{row['name']}`", *told, row["mergeable"], row["where"], paper, row["reference"]])
    numbers = ("one task", f"{TASKS} tasks", "% a task")
    return table(("method", *numbers, "merges", "where: whose tensors", "paper", "compared with"), rows, numbers)


def tuners_table() -> str:
    """Every type of tuner with its settings and their defaults."""
    known = {name: kind for name, kind in tuner_types().items() if kind.__module__.startswith("hyperpelt.")}
    return table(
        ("tuner", "what it is", "settings"),
        [[f"`{name}`", _said(kind), _settings(kind)] for name, kind in sorted(known.items())],
    )


def _said(kind: type[Tuner]) -> str:
    """A class's text in one line."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return re.sub(r"\s+", " ", re.sub(r"(?<![.:\n])\n+- ", "; ", text).replace("\n- ", " ")).strip()


def _settings(kind: type[Tuner]) -> str:
    told = []
    for one in fields(kind):
        default = "" if one.default is MISSING else f" ({json.dumps(one.default)})"
        told.append(f"`{one.name}`{default}".replace('"', ""))
    return ", ".join(told)


TABLES = {"methods": methods_table, "tuners": tuners_table}


def renewed(page: str) -> str:
    """The page with its tables as they are now."""
    for name, made in TABLES.items():
        block = re.compile(rf"(<!-- table: {name}\b[^>]*-->\n).*?(<!-- end -->)", re.DOTALL)
        page, found = block.subn(lambda there, made=made: f"{there[1]}{made()}\n{there[2]}", page)
        assert found == 1, f"{found} tables {name!r} on the page"
    return page


if __name__ == "__main__":
    argparse.ArgumentParser(description="Write the tables of docs/methods.md anew.").parse_args()
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf8")), encoding="utf8")
