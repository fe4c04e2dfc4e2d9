"""How the scripts with commands of their own start and end, which is as the `hyperpelt` command does."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import typer

from hyperpelt.cli import AT_FAULT, INTERRUPTED, ClickException
from hyperpelt.commands import interruption
from hyperpelt.errors import UserError


def run(name: str, module: str) -> NoReturn:
    """Run the commands (`app`) of a module and exit: 0 done, 2 the user's fault, 130 Ctrl-C, else what a command says.

    The module is imported here, where Ctrl-C is heard.
    """
    try:
        # Not `app(...)`: that has a status of its own for Ctrl-C, and no word.
        with interruption.heard():
            command = typer.main.get_command(importlib.import_module(module).app)
            with command.make_context(f"scripts/{name}", sys.argv[1:]) as context:
                command.invoke(context)
        sys.exit()
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except UserError as mistake:
        _end(f"{name}: {mistake}", AT_FAULT)
    except ClickException as mistake:
        # No arguments at all: the help has been printed.
        told = mistake.format_message().replace("Value error, ", "")
        _end(f"{name}: {told} (see scripts/{name} --help)" if told else "", AT_FAULT)
    except (KeyboardInterrupt, typer.Abort):
        _end(f"{name}: interrupted.", INTERRUPTED)


def _end(message: str, status: int) -> NoReturn:
    if message:
        print(message, file=sys.stderr)
    sys.exit(status)
