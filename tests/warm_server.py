"""Imports the library once, then forks for every program that `warm_client.py` asks for, until its stdin is closed."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import struct
import sys
import threading
from contextlib import suppress
from types import ModuleType
from typing import Any

# What `hyperpelt train` and the other verbs import sooner or later; not `hyperpelt.cli`, which is run as the program.
PRELOADED = """
accelerate.commands.launch datasets matplotlib.backends.backend_svg matplotlib.figure numpy sklearn.metrics
torch._dynamo torch.distributed.run torch.utils.tensorboard transformers transformers.models.auto.modeling_auto
transformers.models.bart.modeling_bart transformers.models.t5.modeling_t5 transformers.models.t5.tokenization_t5
hyperpelt.commands.evaluate hyperpelt.commands.export hyperpelt.commands.plan hyperpelt.commands.predict
hyperpelt.commands.train hyperpelt.commands.transfer hyperpelt.evaluation.run hyperpelt.model.tuned
hyperpelt.report.page hyperpelt.training.run hyperpelt.transfer.bench
"""


def await_request(path: str) -> dict[str, Any]:
    """Returns in the forked process that is to become the program; the server itself never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        os.write(1, b"ready\n")
        while True:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that attend
            ready, _, _ = select.select([listener, 0], [], [])
            if 0 in ready:  # the tests are over
                os._exit(0)
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return attend(connection)
            connection.close()


def attend(connection: socket.socket) -> dict[str, Any]:
    """Fork the program, pass on signals, tell its status; returns in the program."""
    length, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
    request = json.loads(connection.recv(*struct.unpack("q", length), socket.MSG_WAITALL))
    pid = os.fork()
    if pid == 0:
        connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, max(descriptors) + 1)
        return request
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(pid)
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            break
        numbers = connection.recv(64)
        for number in numbers or [signal.SIGKILL]:
            os.kill(pid, number)
        if not numbers:  # the client was killed
            break
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):
        connection.sendall(struct.pack("i", status))
    os._exit(0)


def become(request: dict[str, Any]) -> list[str]:
    """Environment, folder, signals and random numbers of a process of its own; returns the words after options."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.executable = request["program"]
    words = request["words"]
    if words[0] == "-u" or os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    return words[words[0] == "-u" :]


def run(words: list[str]) -> None:
    """As Python runs `-c CODE`, `-m MODULE` or a script."""
    kind, *rest = words
    first = {"-c": "", "-m": os.getcwd()}.get(kind, os.path.dirname(os.path.abspath(kind)))
    sys.path[:1] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif kind == "-m":
        sys.argv = rest
        sys.modules.pop(rest[0], None)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(kind, run_name="__main__")


def status_of(words: list[str]) -> int:
    try:
        run(words)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end(status: int) -> None:
    """As the interpreter ends, but without taking hundreds of imported modules apart, which costs a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    for name in PRELOADED.split():
        importlib.import_module(name)
    os.fsync = lambda descriptor: None  # as in conftest.py
    assert threading.active_count() == 1, "a fork takes one thread along, and perhaps another's lock"
    gc.collect()
    gc.freeze()  # pages that no collection touches stay shared
    words = become(await_request(sys.argv[1]))
    end(status_of(words))
