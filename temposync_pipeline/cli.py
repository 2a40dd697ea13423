"""The command `temposync`.

Exit code 0 on success (of `verify` 1 where it finds no mark); with one line on stderr 2 for an input that cannot be used, 130 after
Ctrl-C, 143 after SIGTERM; silently 141 where a pipe's reader has left.  Each command (`commands`) imports what it needs when it runs, so
that `temposync --help` does not wait for torch.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from .commands.batch import batch
from .commands.dub import dub
from .commands.export import export
from .commands.live import live
from .commands.measure import benchmark, evaluate
from .commands.preview import preview
from .commands.train import manifest, train
from .commands.verify import verify
from .commands.video import decode, generate, visemes
from .errors import InvalidInputError, Terminated
from .startup import keep_little, start_lean, yield_cores
from .terminal import STDOUT, in_words, one_line, say

app = typer.Typer(
    help="Talking heads: a portrait and a speech recording in, a video of that person speaking out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (generate, dub, live, preview, batch, decode, verify, benchmark, visemes, evaluate, export, train, manifest):
    app.command()(command)

# What needs no more of diffusers and transformers than `bases.lean` has.
LEAN_COMMANDS = ("generate", "dub", "live", "preview", "batch", "decode", "visemes", "export", "verify")
INTERRUPTED, UNREAD, TERMINATED = 130, 141, 143
# What is wrong with an option's value, by pydantic's name of the error.
COMPLAINTS = {
    "int_parsing": "is not a whole number", "int_parsing_size": "has too many digits", "float_parsing": "is not a number",
    "greater_than_equal": "is below the limit of {ge}", "less_than_equal": "is above the limit of {le}",
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point; `arguments` default to the command line's."""
    if arguments is None:  # the process is the command's own
        arguments = sys.argv[1:]
        if arguments[:1] and arguments[0] in LEAN_COMMANDS:
            start_lean()
            yield_cores()
            if arguments[0] != "live":  # which goes on and on with a few sizes of inputs
                keep_little()
    try:
        with _raising_sigterm(), _warning_once():
            _check_working_folder()
            code = app(arguments or ["--help"], prog_name="temposync", standalone_mode=False) or 0
    except SystemExit:  # what Typer makes of a pipe whose reader has left: 1, which says that there is no mark
        sys.exit(UNREAD)
    except TyperException as error:  # a missing or misspelt option, a value out of range
        _fail(_in_plain_words(error), 2)
    except Terminated:
        _fail("terminated", TERMINATED)
    except (InvalidInputError, OSError) as error:
        _end_where_stdout_fails()
        _fail(in_words(error), 2)
    _end_where_stdout_fails()
    if code == INTERRUPTED:  # what Typer makes of Ctrl-C
        _fail("interrupted", code)
    sys.exit(code)


def _check_working_folder() -> None:
    """Raises InvalidInputError where it was deleted: torch's libraries end the process there."""
    try:
        os.getcwd()
    except OSError as error:
        raise InvalidInputError("the folder that this was started in is no longer there") from error


def _end_where_stdout_fails() -> None:
    """Say so where standard output does not take what was printed; nothing where a pipe's reader has left, which is no fault."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries once more at its end
        if isinstance(error, BrokenPipeError):
            sys.exit(UNREAD)
        _fail(f"{STDOUT}: {error.strerror}", 2)


@contextmanager
def _raising_sigterm() -> Iterator[None]:
    """Raise `Terminated` in the main thread on the first SIGTERM; a second one cannot interrupt the tidying up."""

    def handle(*_) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # only the main one may set, and will get, a signal
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminal(logging.Handler):
    """Prints warnings on stderr, each in one line."""

    def emit(self, record: logging.LogRecord) -> None:
        say(one_line(record.getMessage()), err=True)


@contextmanager
def _warning_once() -> Iterator[None]:
    """Show each warning on stderr once: inputs are looked at before the models are loaded, and read again when they are used."""
    shown: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (message in shown or shown.add(message))

    handler, logger = _Terminal(), logging.getLogger(__package__)
    handler.addFilter(is_new)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _in_plain_words(error: TyperException) -> str:
    """Typer's message, but where pydantic found fault with a value, the option, the value and the limit."""
    faults = error.__cause__.errors() if hasattr(error.__cause__, "errors") else []
    complaint = COMPLAINTS.get(faults[0]["type"]) if faults else None
    if complaint is None or getattr(error, "param", None) is None:
        return error.format_message()
    if str(faults[0]["input"]).strip(" +-").lower() == "nan":  # which is neither below nor above anything
        complaint = COMPLAINTS["float_parsing"]
    return f"{', '.join(error.param.opts)}: {str(faults[0]['input'])!r} {complaint.format(**faults[0].get('ctx', {}))}"


def _fail(message: str, code: int) -> NoReturn:
    say(f"temposync: {one_line(message)}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
