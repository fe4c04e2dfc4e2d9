"""The folder of a run: what is in it already, what a new run may replace, and where a stopped run goes on."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hyperpelt.config import RunConfig
from hyperpelt.errors import UserError
from hyperpelt.training.checkpoints import MANIFEST, list_checkpoints

# Everything a run writes; `overwrite` removes these and nothing else.
FINISHED = ("results.json", "model.safetensors")
OURS = ("config.json", "model.safetensors", "results.json", "run.yaml", "report.html", "tensorboard", "checkpoints")


@dataclass(frozen=True)
class RunFolder:
    """A run folder that this run may use. `resume_from` is a checkpoint, `clear` says that an earlier run goes away."""

    path: Path
    resume_from: Path | None = None
    clear: bool = False

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
    def claim(cls, config: RunConfig) -> RunFolder:
        """Decide what to do with `output_dir`; nothing is written yet.

        Raises UserError if it holds another run and neither `resume` nor `overwrite` was asked for, and if there is
        nothing to resume.
        """
        path = Path(config.output_dir)
        if path.exists() and not path.is_dir():
            raise UserError(f"output_dir {path} is a file; name a folder, which need not exist yet.")
        resume_from = _checkpoint_to_resume(config, path)
        used = bool(list_checkpoints(path / "checkpoints")) or any((path / name).exists() for name in FINISHED)
        inside = resume_from is not None and resume_from.resolve().is_relative_to(path.resolve())
        if used and not inside and not config.overwrite:
            state = "a finished run" if (path / "results.json").exists() else "a run that was not finished"
            raise UserError(
                f"output_dir {path} holds {state}: go on with it (resume=true), replace it (overwrite=true), or choose "
                "another output_dir."
            )
        return cls(path, resume_from, clear=used and not inside)

    def prepare(self, run_yaml: str) -> None:
        """Make the folder, clear what `overwrite` replaces, and write run.yaml."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in OURS if self.clear else ():
                _remove(self.path / name)
            self.checkpoints.mkdir(exist_ok=True)
            temporary = self.path / f".run.yaml.{os.getpid()}.tmp"
            temporary.write_text(run_yaml, encoding="utf8")
            os.replace(temporary, self.path / "run.yaml")
        except OSError as error:
            raise UserError(f"Cannot write to output_dir {self.path} ({error.strerror}); choose another.") from None


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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
