"""The command `temposync`.

Exit code 0 on success, 2 with one line on stderr for an input that cannot be used.  Each command (`commands`) imports what it needs when
it runs, so that `temposync --help` does not wait for torch.
"""

import sys
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from .commands.measure import benchmark, evaluate
from .commands.train import manifest, train
from .commands.video import decode, generate, visemes
from .errors import InvalidInputError

app = typer.Typer(
    help="Talking heads: a portrait and a speech recording in, a video of that person speaking out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (generate, decode, benchmark, visemes, evaluate, train, manifest):
    app.command()(command)

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Entry point; `arguments` default to the command line's."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(arguments or ["--help"], prog_name="temposync", standalone_mode=False) or 0
    except TyperException as error:  # a missing or misspelt option, a value out of range
        _fail(error.format_message(), 2)
    except (InvalidInputError, OSError) as error:
        named = isinstance(error, OSError) and error.filename and error.strerror
        _fail(f"{error.filename}: {error.strerror}" if named else str(error), 2)
    if code == INTERRUPTED:  # what Typer makes of Ctrl-C
        _fail("interrupted", code)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    print("temposync:", " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
