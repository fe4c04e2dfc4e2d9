"""The warm interpreter does what the cold one does, as far as tests rely on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import warm

SAME = {
    "what it is given": "import os, sys; print(sys.argv, os.getcwd(), os.environ['GIVEN'], sys.stdin.read(), __name__)",
    "a status": "import sys; print('out', flush=True); sys.exit(7)",
    "a sentence": "import sys; sys.exit('one sentence')",
    "what is done at the end": "import atexit; atexit.register(print, 'bye'); print('first')",
    "a thread that is waited for": "import threading as t; t.Timer(0.1, lambda: print('late')).start()",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "ended": "import os; os.kill(os.getpid(), 15)",
    "no such module": "import nowhere_at_all",
}


@pytest.mark.parametrize("code", SAME.values(), ids=SAME.keys())
def test_a_program_gets_and_does_what_it_would_in_a_cold_one(code: str, tmp_path: Path) -> None:
    def run(python: str) -> tuple[int, str, str]:
        environment = {**os.environ, "GIVEN": "\u00e9 \udc80"}
        done = subprocess.run(
            [python, "-c", code, "a", "b c"],
            input="in", capture_output=True, text=True, errors="surrogateescape", cwd=tmp_path, env=environment,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr.splitlines()[-1] if done.stderr else ""

    assert run(warm.python()) == run(sys.executable)


def test_a_script_and_a_module_find_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'found'", encoding="utf8")
    (tmp_path / "script.py").write_text("import beside, sys; print(beside.WORD, sys.argv[1:], __name__)", "utf8")
    for words in (["script.py"], ["-m", "script"], ["-u", "-m", "script"]):
        done = subprocess.run([warm.python(), *words, "x"], capture_output=True, text=True, cwd=tmp_path, check=True)
        assert done.stdout == "found ['x'] __main__\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_program(number: signal.Signals) -> None:
    code = f"""
import signal, sys, time
signal.signal({number.value}, lambda *_: sys.exit(9))
print("begun", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([warm.python(), "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(30) == 9


def test_a_program_dies_with_the_one_that_stands_for_it() -> None:
    code = "import time; print('begun', flush=True); time.sleep(60)"
    with subprocess.Popen([warm.python(), "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        assert process.stdout.read() == "", "the program's end closes the pipe"
