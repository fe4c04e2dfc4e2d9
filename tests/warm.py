"""An interpreter that has imported the library already, for tests that start processes.

    subprocess.run([warm.python(), "-m", "hyperpelt.cli", "train", ...])

costs some hundredths of a second more than the work, where `sys.executable` imports for five seconds first. It takes
`-m MODULE`, `-c CODE` or a script. What runs is a process of its own, forked from one that has imported and done
nothing else: with its own arguments, environment, folder, descriptors, random numbers, signals and exit status. Its
`sys.executable` is warm as well, so launchers and their workers are. Only imports and the seed of hashes are not its
own: tests of what is imported, of variables that are read at import, or of a kill at some moment use `sys.executable`.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@cache
def python() -> str:
    """The program's path. The server is started by the first call, and ends with this process."""
    if not hasattr(os, "pidfd_open"):  # no Linux
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    command = [sys.executable, str(HERE / "warm_server.py"), str(folder / "socket")]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    atexit.register(_end, server, folder)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n", "the warm interpreter did not start"
    program = folder / "python"
    words = [sys.executable, "-IS", str(HERE / "warm_client.py"), str(folder / "socket")]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$0" "$@"\n', encoding="utf8")
    program.chmod(0o755)
    (folder / "hyperpelt").symlink_to(Path(sys.executable).with_name("hyperpelt"))  # commands stand beside Python
    return str(program)


def _end(server: subprocess.Popen[bytes], folder: Path) -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.wait()
    shutil.rmtree(folder)
