"""What visitors and programs are told that send what cannot be used, and of what fails: one sentence, never a path or a traceback."""

import html
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

import gradio as gr

from ..errors import InvalidInputError

logger = logging.getLogger("temposync.app")

# Letters; what is longer repeats what was sent.
MAX_ANSWER = 200


def hand_over(upload: gr.FileData | None) -> str | None:
    """The uploaded picture as it is: Gradio itself would open any format that Pillow knows, and answer a damaged file with "Error"."""
    return upload and upload.path


def choose_one(examples: gr.Examples) -> None:
    """What names none of the examples, also null, is refused where values are checked (`check_quietly`); Gradio takes null for one."""
    chosen = examples.dataset.preprocess

    def preprocess(number: int | None) -> int | list | tuple[int, list] | None:
        if number is None:
            raise ValueError
        return chosen(number)

    examples.dataset.preprocess = preprocess


@contextmanager
def plain_errors() -> Iterator[None]:
    """Whatever goes wrong becomes one sentence without a path; the log says where it went wrong, and nothing of the visitor's files."""
    try:
        yield
    except gr.Error:
        raise
    except InvalidInputError as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None
    except FileNotFoundError:
        message = "The file is no longer on the server, where uploads stay for ten minutes; choose it again."
        raise gr.Error(message, print_exception=False) from None
    except Exception as error:
        logger.error("%s at\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        message = "The server's disk is full; try again later." if isinstance(error, OSError) else "Something went wrong on the server."
        raise gr.Error(message, print_exception=False) from None


@contextmanager
def remarks() -> Iterator[None]:
    """What the library has to say of an upload, such as that nobody speaks in it, is shown beside the page."""
    heard, here = [], get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == here and record.levelno >= logging.WARNING and record.getMessage() not in heard:
                heard.append(record.getMessage())

    library, listener = logging.getLogger("temposync_pipeline"), Listener()
    library.addHandler(listener)
    try:
        yield
    finally:
        library.removeHandler(listener)
    for remark in heard:
        gr.Warning(html.escape(remark, quote=False), title="Note")


def needed(**files: str | None) -> None:
    for name, path in files.items():
        if not path:
            raise gr.Error(f"Choose a {name} first.", print_exception=False)


def whole(name: str, value: float | None) -> int:
    if value is None or value % 1 != 0:
        raise gr.Error(f"The {name} must be a whole number.", print_exception=False)
    return int(value)


def check_quietly(page: gr.Blocks) -> None:
    """What a program sends that no endpoint takes (steps out of range, a name for a file) is a line of the log, not Gradio's traceback."""
    check = page.preprocess_data

    async def preprocess_data(endpoint, *arguments, **keywords):
        message = "The values sent are not those that this endpoint takes."
        try:
            if endpoint.fn is not None:  # else it is one of the page's own, in which nothing is computed here
                return await check(endpoint, *arguments, **keywords)
        except gr.Error as error:
            said = html.escape(str(error.message), quote=False)
            message = said if len(said) <= MAX_ANSWER else message
        except Exception:
            pass
        logger.warning("values sent to an endpoint were refused")
        raise gr.Error(message, print_exception=False)

    page.preprocess_data = preprocess_data
