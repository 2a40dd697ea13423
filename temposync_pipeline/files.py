"""Text files that are whole where they exist."""

import os
import secrets
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write `text` in UTF-8, under a hidden name first: what stood there stays until the new file is complete."""
    temporary = path.absolute().with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
