"""Text that is read as a whole."""

from pathlib import Path

from .errors import InvalidInputError
from .files import called, read_bounded
from .limits import MAX_TABLE_BYTES, MAX_TABLE_LINES


def read_table_text(path: Path) -> str:
    """What a table, a manifest or a list says, in UTF-8 with or without its mark; raises InvalidInputError for one above the limits,
    UnicodeDecodeError and OSError."""
    text = read_bounded(path, MAX_TABLE_BYTES).decode("utf-8-sig")
    if (lines := max(text.count("\n"), text.count("\r"))) > MAX_TABLE_LINES:
        raise InvalidInputError(f"{called(path)}: {lines} lines, above the limit of {MAX_TABLE_LINES}")
    return text
