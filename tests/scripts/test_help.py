"""What a script says of itself, and does not do when it is only asked that."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize(("script", "said"), [("demo", "unseen tasks"), ("docs", "API reference")])
def test_a_shell_script_tells_its_use_and_does_nothing(script: str, said: str, tmp_path: Path) -> None:
    done = subprocess.run([SCRIPTS / script, "--help"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout
    assert not list(tmp_path.iterdir())
