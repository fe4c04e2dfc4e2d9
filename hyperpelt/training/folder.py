"""The folder of a run: who may write there, what is in it already, and where a stopped run goes on.

One process at a time trains into a folder (of several that a launcher started, the first holds the lock). An earlier
run gives way only to `overwrite`, is set aside until the new one is finished, and comes back if that fails before it
has saved anything. What no run wrote is never replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hyperpelt.config import RunConfig
from hyperpelt.errors import UserError
from hyperpelt.files import atomic, folders, manifests
from hyperpelt.files.locks import LOCK, FolderLock
from hyperpelt.files.manifests import MANIFEST
from hyperpelt.files.reading import Damaged, read_object
from hyperpelt.model import saving
from hyperpelt.training import checkpoints, replaced
from hyperpelt.training.checkpoints import list_checkpoints
from hyperpelt.training.distributed import Processes
from hyperpelt.training.replaced import OURS

FINISHED = ("results.json", "model.safetensors")
MADE_OF_IT = ("export", "transfer", "geometry")  # what other commands make of a run, in its folder


@dataclass
class RunFolder:
    """A run folder that this run may use. `resume_from` is a checkpoint, `clear` says that an earlier run gives way."""

    path: Path
    config: RunConfig
    lock: FolderLock
    resume_from: Path | None = None
    clear: bool = False
    locked: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @classmethod
    @contextmanager
    def claimed(cls, config: RunConfig, processes: Processes) -> Iterator[RunFolder]:
        """The run's folder, for as long as it trains. Before `prepare` nothing of a run is written to it.

        Raises UserError if it holds another run and neither `resume` nor `overwrite` was asked for, if there is nothing
        to resume, if another process trains there, and if something else than a run would be replaced.
        """
        path = Path(config.output_dir)
        folder = cls(path, config, FolderLock(path, advice="Wait until it ends, or choose another output_dir."))
        try:
            folder.resume_from, folder.clear = processes.on_main(folder._look)
            yield folder
        except UserError as error:
            said = folder._settled()
            if not said:
                raise
            raise UserError(f"{error}{said}") from error
        except BaseException:
            folder._settled()
            raise
        finally:
            folder.lock.release()

    def _look(self) -> tuple[Path | None, bool]:
        """Decide what to do with the folder; if a run was ever here, hold it from now on."""
        _check_place(self.config, self.path)
        if (self.path / LOCK).exists():
            self._take()
        return self._decide()

    def _take(self) -> None:
        """Be the only process that writes here, and mend what killed ones left."""
        self.lock.acquire()
        self.locked = True
        saving.recover(self.path)
        folders.recover(self.path, "|".join(map(re.escape, OURS)))
        checkpoints.recover(self.checkpoints)
        replaced.settle(self.path)

    def _decide(self) -> tuple[Path | None, bool]:
        resume_from = _checkpoint_to_resume(self.config, self.path)
        used = bool(list_checkpoints(self.checkpoints)) or any((self.path / name).exists() for name in FINISHED)
        inside = resume_from is not None and resume_from.resolve().is_relative_to(self.path.resolve())
        if used and not inside and not self.config.overwrite:
            if _is_export(self.path):
                raise UserError(f"output_dir {self.path} holds an export of a task, no run: choose another one.")
            state = "a finished run" if self.results.exists() else "a run that was not finished"
            raise UserError(
                f"output_dir {self.path} holds {state}: go on with it (resume=true), replace it (overwrite=true), or "
                "choose another output_dir."
            )
        return resume_from, used and not inside

    def prepare(self, run_yaml: str) -> None:
        """Make the folder, set aside what `overwrite` replaces, and write run.yaml."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.locked:
                self._take()
                _check_place(self.config, self.path)
                if self._decide() != (self.resume_from, self.clear):
                    raise UserError(f"output_dir {self.path} was changed by another run meanwhile; start again.")
            if self.clear:
                replaced.set_aside(self.path)
            atomic.write_text(self.path / "run.yaml", run_yaml)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"Cannot write to output_dir {self.path} ({error.strerror}); choose another.") from None

    def outlived(self) -> list[str]:
        """Notes on what was made of a run that gives way, and stays."""
        there = [name for name in MADE_OF_IT if self.clear and (self.path / name).is_dir()]
        said = f"{', '.join(there)} in {self.path}: of the run that is replaced; make it anew, or remove it."
        return [said] if there else []

    def finish(self) -> None:
        """The run stands: what it replaced goes."""
        replaced.forget(self.path)

    def _settled(self) -> str:
        """After a failure: put back what was to be replaced, if nothing was saved in its place; what was done."""
        if not self.locked or not self.clear:
            return ""
        if replaced.settle(self.path):
            return " The run that was to be replaced is in its place again."
        aside = replaced.kept(self.path)
        return f" The run that was to be replaced is kept in {aside[0]} until this one is finished." if aside else ""


def _check_place(config: RunConfig, path: Path) -> None:
    """UserError if a run written to `path` would take the place of something else."""
    if path.exists() and not path.is_dir():
        raise UserError(f"output_dir {path} is a file; name a folder, which need not exist yet.")
    place = path.resolve()
    read = {"backbone": config.backbone, "image_encoder": config.image_encoder}
    if config.from_run is not None:
        read["from_run"] = str(saving.local_folder(config.from_run))
    for key, name in read.items():
        source = Path(name).resolve()
        if source.exists() and (source == place or any(source.is_relative_to(place / ours) for ours in OURS)):
            raise UserError(f"output_dir {path} would take the place of the run's {key} ({name}); choose another one.")
    foreign = _foreign(path)
    if foreign:
        raise UserError(
            f"output_dir {path} holds {', '.join(foreign)}, which no run of hyperpelt wrote and a run would replace; "
            "choose another one."
        )


def _foreign(path: Path) -> list[str]:
    """What has the name of something that a run writes, in a folder that is not a run's."""
    there = [name for name in OURS if (path / name).exists() and not _is_empty_folder(path / name)]
    try:
        config = read_object(path / "config.json")
        if not {"method", "tasks"} <= config.keys():  # a backbone's, whatever else is beside it
            return [name for name in there if name != "run.yaml"]
        return []
    except (FileNotFoundError, Damaged):
        pass
    is_run = _is_run_yaml(path / "run.yaml") or any(
        (saved / MANIFEST).is_file() for saved in list_checkpoints(path / "checkpoints").values()
    )
    return [] if is_run or replaced.is_here(path) else there


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _is_run_yaml(path: Path) -> bool:
    return path.is_file() and bool(re.search(rb"^tasks *:", path.read_bytes()[:1_000_000], re.MULTILINE))


def _checkpoint_to_resume(config: RunConfig, folder: Path) -> Path | None:
    if config.resume is False:
        return None
    if config.resume in (True, "auto"):
        found = list(list_checkpoints(folder / "checkpoints").values())
        if not found and config.resume is True:
            raise UserError(f"Nothing to resume: {folder / 'checkpoints'} holds no checkpoint. Start without resume.")
        return found[-1] if found else None
    path = Path(str(config.resume))
    inside = list(list_checkpoints(path / "checkpoints").values())
    if inside:  # a run folder: its latest
        return inside[-1]
    if not path.is_dir():
        raise UserError(f"resume={path} is not there; give a folder such as RUN/checkpoints/step-500, or true.")
    if not (path / MANIFEST).exists() and not path.name.startswith("step-"):
        raise UserError(f"resume={path} is no checkpoint; give a folder such as RUN/checkpoints/step-500, or true.")
    return path


def _is_export(folder: Path) -> bool:
    """Whether `hyperpelt export` wrote what is there."""
    try:
        return "export" in manifests.read(folder)
    except (Damaged, FileNotFoundError):
        return False
