"""The `hyperpelt` command: its verbs, and what an error or an interruption means to the shell.

Exit status: 0 done, 2 the user's input was at fault (one sentence says what and what to do), 1 a defect of ours, 130
interrupted by Ctrl-C, 143 by SIGTERM, 129 by a closed terminal. `--debug` shows the traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from hyperpelt.commands import (
    common,
    evaluate,
    export,
    features,
    interruption,
    lm_eval,
    messages,
    methods,
    plan,
    predict,
    report,
    tasks,
    train,
    transfer,
    unheard,
)
from hyperpelt.config.paths import at_home
from hyperpelt.errors import UserError, cut, of_the_machine, visible
from hyperpelt.files.damage import of_files
from hyperpelt.training.interrupts import TrainingInterrupted

DONE, DEFECT, AT_FAULT = 0, 1, 2
LONGEST = 4000  # letters of a message
INTERRUPTED = 128 + signal.SIGINT
# Typer brings its own copy of click or imports the installed one, by version; its public name reaches either.
UsageError, ClickException = typer.BadParameter.__mro__[1:3]

app = typer.Typer(
    name="hyperpelt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Multi-task hypernetwork tuning of frozen T5 and BART: train jointly on many tasks, evaluate, use the result.",
)
app.command("train")(train.train)
app.command("plan")(plan.plan)
app.command("evaluate")(evaluate.evaluate)
app.command("transfer")(transfer.transfer)
app.command("predict")(predict.predict)
app.add_typer(tasks.app, name="tasks")
app.add_typer(methods.app, name="methods")
app.add_typer(features.app, name="features")
app.command("export")(export.export)
app.command("report")(report.report)
app.command("lm-eval", context_settings=lm_eval.OPTIONS)(lm_eval.lm_eval)
app.command("geometry")(transfer.geometry)


def _print_version(wanted: bool) -> None:
    if wanted:
        from hyperpelt import __version__

        print(f"hyperpelt {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: common.Debug = False,
) -> None:
    """Multi-task hypernetwork tuning of frozen T5 and BART: train jointly on many tasks, evaluate, use the result."""


def command() -> Any:
    """The command and its verbs. The lines of their help are the terminal's, not those of the docstrings."""
    root = typer.main.get_command(app)
    pending = [root]
    while pending:
        one = pending.pop()
        paragraphs = (one.help or "").split("\n\n")
        one.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        pending += getattr(one, "commands", {}).values()
    return root


def main() -> NoReturn:
    """The console script."""
    if isinstance(sys.stdout, TextIOWrapper):  # a letter that a terminal does not have is shown as its number
        sys.stdout.reconfigure(errors="backslashreplace")
    unheard.let_it_be_unheard()
    status = run(sys.argv[1:])
    _close_stdout()
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; errors are printed to stderr."""
    with messages.printed_as_data():
        return _run(arguments, debug="--debug" in arguments)


def _run(arguments: Sequence[str], *, debug: bool) -> int:
    try:
        # Not `app(...)`: that has statuses of its own for interruptions and closed pipes.
        root = command()
        with (
            interruption.heard(),
            root.make_context("hyperpelt", [_at_home(one) for one in arguments]) as context,
        ):
            root.invoke(context)
        return DONE
    except typer.Exit as stopped:
        return stopped.exit_code
    except UsageError as error:
        message = error.format_message().replace("Value error, ", "")
        if not message:  # no arguments at all: the help has been printed
            return AT_FAULT
        return _failed(f"{message} (see {_help_of(error)})", AT_FAULT, debug)
    except ClickException as error:
        return _failed(error.format_message(), AT_FAULT, debug)
    except UserError as error:
        return _failed(str(error), AT_FAULT, debug)
    except TrainingInterrupted as stopped:
        return _failed(str(stopped), stopped.exit_status, debug)
    except (KeyboardInterrupt, typer.Abort) as stopped:
        # What is kept, where something is: a KeyboardInterrupt says nothing of its own.
        return _failed(f"interrupted{f'; {stopped}' if str(stopped) else ''}.", INTERRUPTED, debug)
    except GeneratorExit as error:  # which only a plugin raises so far out
        return _failed(f"a plugin ended this command ({type(error).__name__}); mend or leave it out.", AT_FAULT, debug)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: nothing is left to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if (sentence := of_files(error) or of_the_machine(error)) is not None:
            return _failed(sentence, AT_FAULT, debug)
        hint = "" if debug else " (--debug shows where)"
        return _failed(f"this is a defect of hyperpelt: {type(error).__name__}: {error}{hint}", DEFECT, debug)


def _at_home(argument: str) -> str:
    """`~/runs` and `--output=~/runs` as a shell would have given them; the settings of a run do so themselves."""
    option, sign, path = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + sign + at_home(path) if path.startswith("~") else argument


def _failed(message: str, status: int, debug: bool) -> int:
    if debug:
        print(visible(traceback.format_exc()), file=sys.stderr)
    print(f"hyperpelt: {visible(cut(message, LONGEST))}", file=sys.stderr)
    return status


def _help_of(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'hyperpelt'} --help"


def _close_stdout() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
