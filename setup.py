"""The one thing that pyproject.toml cannot say: what the page on the package index shows."""

import re
from pathlib import Path

from setuptools import setup

RELATIVE = r"\((?!https?://|#)[^)\s]*\)"


def index_page(readme: str) -> str:
    """The README without the Space's header, and without pictures and links that lead nowhere outside the source tree."""
    page = re.sub(r"\A---\n.*?\n---\n+", "", readme, flags=re.DOTALL)
    page = re.sub(rf"^!\[[^\]]*\]{RELATIVE}\n+", "", page, flags=re.MULTILINE)
    return re.sub(rf"\[([^\]]*)\]{RELATIVE}", r"\1", page)


setup(long_description=index_page(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
      long_description_content_type="text/markdown")
