"""A transfer from its settings to its results: planning, doing what is not done yet, and summing up.

    found = transfer("runs/glue", tasks=["super_glue/cb"], shots=[0, 16, 100], seeds=5, start=["mean", "described"])
    found["summary"]      # a row for each task (and the average), number of shots, and way of adapting; also of what
                          # earlier calls measured alike into the same folder
    found["cells"]        # every measurement of this call, with the ids of the rows it learned from

The output folder (default RUN/transfer): cells.jsonl, summary.json, table.md, curves as SVG, report.html.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from hyperpelt import tasks as registry
from hyperpelt.config import RunConfig, load_run
from hyperpelt.errors import UserError, counted
from hyperpelt.files import folders
from hyperpelt.files.names import hidden
from hyperpelt.model.saving import local_folder, read_config
from hyperpelt.tasks import Task
from hyperpelt.tasks.plugins import load_each
from hyperpelt.transfer import records
from hyperpelt.transfer.cells import Cell, plan, settings_of, share
from hyperpelt.transfer.checks import check_names
from hyperpelt.transfer.identity import Identities, diverged, still_standing
from hyperpelt.transfer.processes import PAUSE, ending_on_sigterm, launched, run_workers
from hyperpelt.transfer.settings import TransferConfig, build
from hyperpelt.transfer.summary import summarise, write_summary

if TYPE_CHECKING:
    import torch

    from hyperpelt.transfer.bench import Bench


def transfer(
    run: str | Path,
    *,
    tasks: str | Task | Iterable[str | Task],
    processes: int = 1,
    recipe: str = "default",
    baselines: bool = False,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Adapt a trained run to tasks that it never saw, and measure it.

    Args:
        run: a run folder, or a hub id.
        tasks: names, wildcards, mixtures, or Task objects (those with one process only).
        processes: how many share the cells out.
        recipe: `t-few` for T-Few's losses, optimiser, steps and scoring in every adaptation.
        baselines: also full fine-tuning, adapters, prefix-tuning, (IA)^3, LoRA and in-context prompting.
        settings: those of `hyperpelt.transfer.settings.TransferConfig`: shots, seeds, adapt, start, ...

    Returns `cells`, `summary`, `notes` and `output`. What the output folder holds already is not done again.

    Raises UserError for whatever of it is not as it should be, before the first cell where that can be known.
    """
    wanted = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    given = [task for task in wanted if isinstance(task, Task)]
    if given and processes > 1:
        raise UserError("Worker processes look tasks up by name: register yours in a plugin, or use one process.")
    names = [task if isinstance(task, str) else task.name for task in wanted]
    config = build({"run": str(run), "tasks": names, **settings}, recipe=recipe, baselines=baselines)
    rank, world = launched()
    job = _Job.prepare(config, given, progress=progress and rank == 0)
    try:
        if world == 1 and processes > 1:
            job.spread(processes)
        else:
            job.work(rank, world)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(job.kept()) from None
    return job.finish(write=rank == 0)


def work(config: TransferConfig, wanted: Collection[str]) -> None:
    """One worker's share of the wanted cells."""
    _Job.prepare(config, (), progress=False).work(*launched(), wanted)


@dataclass
class _Job:
    """A transfer whose settings were found to be in order. **planned**: each cell and the id it is recorded by."""

    config: TransferConfig
    settings: RunConfig | None
    tasks: list[Task]
    planned: dict[Cell, str]
    notes: list[str]
    path: Path
    progress: bool
    identities: Identities
    done: int = 0  # cells, by this process

    @classmethod
    def prepare(cls, config: TransferConfig, given: Sequence[Task], *, progress: bool) -> _Job:
        folder = local_folder(config.run)
        saved = read_config(folder)
        records.check_place(Path(config.output))
        settings = load_run(folder) if (folder / "run.yaml").is_file() else None
        config = _completed(config, settings)
        load_each(config.plugins)
        tasks = _found(config, given, [task["name"] for task in saved["tasks"]])
        check_names(config, saved)
        sizes = {task.name: len(task.rows("train", data_root=config.data_root)) for task in tasks}
        cells, notes = plan(config, sizes)
        if not cells:
            reasons = notes or ["Without shots nothing is adapted, and a start by score has no examples to go by."]
            raise UserError(f"There is nothing to measure. {' '.join(reasons)} Give other --shots, --adapt or --from.")
        named, ids = {task.name: task for task in tasks}, Identities(config, saved, settings)
        planned = {cell: ids.of(cell, named[cell.task]) for cell in cells}
        return cls(config, settings, tasks, planned, notes, Path(config.output) / records.CELLS, progress, ids)

    def work(self, rank: int, world: int, wanted: Collection[str] | None = None) -> None:
        """Until every cell is recorded: do this process's share, then what nobody else is at.

        wanted: ids of what is dealt out; else all.
        """
        dealt = [cell for cell, name in self.planned.items() if wanted is None or name in wanted]
        left = self._missing(list(dict.fromkeys([*share(dealt, rank, world), *dealt])))
        with self._bar(len(left)) as bar:
            while left:
                done = [self._do(cell, bar) for cell in left]
                if not any(done):  # others are at all of them
                    time.sleep(PAUSE)
                left = self._missing(left)
                bar.update(bar.total - len(left) - bar.n)

    def _missing(self, cells: Sequence[Cell]) -> list[Cell]:
        done = records.read(self.path).keys()
        return [cell for cell in cells if self.planned[cell] not in done]

    def kept(self) -> str:
        """What a stopped transfer leaves, and how it goes on."""
        found = len(records.read(self.path).keys() & set(self.planned.values()))
        return f"{found} of {len(self.planned)} cells are in {self.path}, and the same command goes on from there"

    def _do(self, cell: Cell, bar: tqdm[Any]) -> bool:
        """Measure a cell and record it, unless another process is at it or has done it; whether it was done here."""
        name = self.planned[cell]
        with records.claimed(self.path, name) as free:
            if not free or name in records.read(self.path):
                return False
            bar.set_postfix_str(f"{cell.task} k={cell.shots} {cell.label} seed {cell.seed}")
            found, settings = self._bench.run(cell), settings_of(cell, self.config)
            records.append(self.path, {"cell": name, **found, "settings": settings, "run": self.config.run})
        bar.update()
        self.done += 1
        self._say(f"{cell.task}, {counted(cell.shots, 'shot')}, {cell.label}, seed {cell.seed}: {found['score']:.1f}")
        return True

    def _say(self, what: str) -> None:
        """A line where no terminal shows the bar: a transfer may take hours."""
        if self.progress and not sys.stderr.isatty():
            print(f"transfer: {what}", file=sys.stderr, flush=True)

    @cached_property
    def _bench(self) -> Bench:
        from hyperpelt.transfer.bench import Bench

        bench = Bench(self.config, self.tasks, self.settings, _device(self.config))
        bench.rehearse()  # every process of several: none begins a cell that it could not measure
        return bench

    def spread(self, processes: int) -> None:
        """Let worker processes do the cells, and show how far they are."""
        folders.recover(self.path.parent, r"request\.json|worker-\d+\.log")
        done = records.read(self.path).keys()
        missing = [name for name in self.planned.values() if name not in done]
        if not missing:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        request = hidden(self.path.with_name("request.json"), "tmp")
        content = {"config": self.config.model_dump(mode="json"), "cells": missing}
        with ending_on_sigterm():
            try:
                request.write_text(json.dumps(content), encoding="utf8")
                with self._bar(len(missing)) as bar:
                    run_workers(request, min(processes, len(missing)), self.path, missing, self._shower(bar))
            finally:
                request.unlink(missing_ok=True)

    def finish(self, *, write: bool) -> dict[str, Any]:
        """What was measured, and (by one process) the table of it and of what else stands in the folder, written."""
        found = records.read(self.path)
        cells = [found[name] for name in self.planned.values() if name in found]
        tasks = {task.name: task for task in self.tasks}
        others, notes = still_standing(found, self.planned, tasks, self.identities) if write else ([], [])
        every = [*cells, *others]
        summary = summarise(every, _majorities(self.config, tasks, every) if write else {})
        notes = [*self.notes, *diverged(every), *notes]
        content: dict[str, Any] = {"summary": summary, "notes": notes}
        content |= {"output": str(self.path.parent), "run": self.config.run}
        content["settings"] = self.config.model_dump(mode="json")
        if write:
            write_summary(self.path.parent, content, every)
        return {**content, "cells": cells, "rank": 0 if write else launched()[0]}

    def _bar(self, total: int) -> tqdm[Any]:
        return tqdm(total=total, desc="transfer", unit="cell", disable=None if self.progress else True)

    def _shower(self, bar: tqdm[Any]) -> Callable[[int], None]:
        """Shows how many cells the workers have done."""

        def show(done: int) -> None:
            bar.update(done - bar.n)
            if done > self.done:
                self.done = done
                self._say(f"{done} of {bar.total} cells")

        return show


def _completed(config: TransferConfig, settings: RunConfig | None) -> TransferConfig:
    """What the user did not say is as in the run; paths in full, for other processes and folders."""
    changes: dict[str, Any] = {"plugins": list(config.plugins)}
    if settings is not None:
        changes["plugins"] = list(dict.fromkeys([*settings.plugins, *config.plugins]))
        changes["data_root"] = config.data_root or settings.data_root
        changes["scoring"] = config.scoring or settings.scoring
    return config.model_copy(update=changes)


def _found(config: TransferConfig, given: Sequence[Task], trained: Sequence[str]) -> list[Task]:
    """The tasks to transfer to; UserError if the run was trained on one of them."""
    objects = {task.name: task for task in given}
    names = [name for name in config.tasks if name not in objects]
    tasks = [*(registry.select(names) if names else []), *objects.values()]
    known = [task.name for task in tasks if task.name in trained]
    if known:
        raise UserError(
            f"The run {config.run} was trained on {', '.join(known)}: transfer is to tasks that it never saw. To "
            "measure what it learned, use `hyperpelt evaluate`."
        )
    return tasks


def _majorities(
    config: TransferConfig, tasks: Mapping[str, Task], cells: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """What always answering the most frequent training label scores, by task of the cells."""
    from hyperpelt.backbones import load_tokenizer
    from hyperpelt.transfer.baseline import majority_score

    names = dict.fromkeys(cell["task"] for cell in cells)
    is_open = any(tasks[name].kind == "generation" for name in names)  # whose answers are judged as they are written
    tokenizer = load_tokenizer(str(read_config(local_folder(config.run))["backbone"])) if is_open else None
    how = {"limit": config.limit, "data_root": config.data_root}
    return {name: majority_score(tasks[name], config.split, tokenizer, **how) for name in names}


def _device(config: TransferConfig) -> torch.device:
    import os

    import torch

    if config.use_cpu or not torch.accelerator.is_available():
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    assert kind is not None, "one is available"
    count = torch.accelerator.device_count()
    return torch.device(kind.type, int(os.environ.get("LOCAL_RANK", "0")) % max(1, count))
