"""Tables in docs/ name tests that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_named_tests_exist(page):
    text = (ROOT / "docs" / page).read_text()
    files = {path.stem: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    named = re.findall(r"`(test_\w+)(…?)`", text)
    assert named
    for name, shortened in named:
        whole = rf"def {name}\w*\(" if shortened else rf"def {name}\("
        assert name in files or any(re.search(whole, source) for source in files.values()), name
