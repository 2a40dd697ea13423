"""What is printed: text that comes out of files, and their names, may hold anything, also what would move the cursor or forge a line."""

import os
import sys
from unicodedata import category

STDOUT = "standard output"
# Letters of a message, of a word in it (a file's name has 255 at most), and of a value that a file holds. Of longer ones beginning and
# end are shown.
LONGEST_MESSAGE, LONGEST_WORD, LONGEST_VALUE = 2000, 300, 60


def plain(text: str) -> str:
    """`text` with a question mark for every letter that does something to a terminal, such as a line's end; spaces of any width stay."""
    return "".join(letter if letter.isprintable() or category(letter) == "Zs" else "?" for letter in text)


def shortened(text: str, most: int = LONGEST_WORD) -> str:
    """`text`, of more than `most` letters its beginning and end."""
    return text if len(text) <= most else f"{text[:most * 3 // 4]}...{text[-most // 4:]}"


def shown(value: object) -> str:
    """A value as a message can hold it: short, in one line."""
    return shortened(ascii(value), LONGEST_VALUE)


def one_line(text: str) -> str:
    """A message of several lines in a single one, and `plain`; what would be endless is `shortened`."""
    return plain(shortened(" ".join(map(shortened, text.split())), LONGEST_MESSAGE))


def in_words(error: Exception) -> str:
    """What went wrong, in one line: of what the system says the file and the reason, without their number."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return one_line(f"{error.filename}: {error.strerror}")
    return one_line(str(error) or repr(error))


def say(text: object, err: bool = False) -> None:
    """Print a line, `plain`, on stdout or stderr; letters that the terminal does not know become question marks, too.

    Raises OSError, in the name of standard output, where that takes nothing; nobody is told of a stderr that does not.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is not None:  # closed
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            print(plain(str(text)).encode(encoding, "replace").decode(encoding), file=stream, flush=True)
        except OSError as error:
            if err:
                sys.stderr = open(os.devnull, "w")  # or Python tries once more at its end, and that is the exit code then
            elif isinstance(error, BrokenPipeError):
                raise
            else:
                raise OSError(error.errno, error.strerror, STDOUT) from error


def is_watched() -> bool:
    """Whether stderr is a terminal, for progress bars; closed it is none."""
    return sys.stderr is not None and sys.stderr.isatty()
