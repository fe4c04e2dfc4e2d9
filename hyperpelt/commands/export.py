"""`hyperpelt export`: one task of a run, without the hypernetwork, or as a PEFT adapter."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hyperpelt.backbones.quiet import quiet_transformers
from hyperpelt.commands import common
from hyperpelt.errors import UserError


class Form(StrEnum):
    """What can be written."""

    baked = "baked"
    merged = "merged"
    peft = "peft"


def export(
    run: common.Run,
    task: Annotated[str, typer.Option("--task", help="A task of the run, such as glue/rte.")],
    to: Annotated[
        Form, typer.Option("--to", help="A hyperpelt model of static tensors, a transformers model, or a PEFT adapter.")
    ] = Form.baked,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Default: RUN/export/TASK-FORM.")
    ] = None,
    plugin: common.Plugins = None,
    backbone: common.Backbone = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Write one task of a run as static tensors: bit-equal answers, no hypernetwork.

    `baked` loads like any run and has what `predict` needs: scoring rule, lengths, plugins. `merged` writes a whole
    model for transformers, with the tuners merged into the weights (`hyperpelt methods list` says which can be).
    `peft` writes an adapter for the PEFT library, for the types that it has.
    """
    with common.stdout_for_json(as_json):
        from hyperpelt.backbones.shipped import place_for
        from hyperpelt.export import export_baked, export_merged, export_peft
        from hyperpelt.export.accompanying import accompany
        from hyperpelt.model.saving import local_folder
        from hyperpelt.model.tuned import TunedModel

        folder = output or place_for(run) / "export" / f"{task.replace('/', '-')}-{to.value}"
        _check_place(folder, run)
        settings = common.load_plugins_of(run, plugin)
        quiet_transformers()
        model = TunedModel.from_pretrained(run, backbone=backbone)
        if to is Form.baked:
            beside = partial(accompany, local_folder(run), settings, task, folder)
            export_baked(model, task, folder, beside=beside)
        else:
            write = export_merged if to is Form.merged else export_peft
            write(model, task, folder)
    if as_json:
        common.print_json({"task": task, "form": to.value, "folder": str(folder)})
    else:
        common.say_path(folder)


def _check_place(folder: Path, run: str) -> None:
    """UserError if writing there would destroy the run that is read, or anything that is no export."""
    from hyperpelt.export.placing import check_place
    from hyperpelt.model.saving import local_folder

    if folder.resolve() == Path(local_folder(run)).resolve():
        raise UserError(
            f"--output {folder} is the run that is read: an export there would destroy it; name another one."
        )
    check_place(folder)
