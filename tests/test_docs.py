"""Pages name tests that there are, and link to what there is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKING = [path.relative_to(ROOT).as_posix() for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]]


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_named_tests_exist(page):
    text = (ROOT / "docs" / page).read_text()
    files = {path.stem: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    named = re.findall(r"`(test_\w+)(…?)`", text)
    assert named
    for name, shortened in named:
        whole = rf"def {name}\w*\(" if shortened else rf"def {name}\("
        assert name in files or any(re.search(whole, source) for source in files.values()), name


def anchors(page: str) -> set[str]:
    """Those of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING)
def test_links_lead_somewhere(page):
    """And pictures; where a heading is meant, there is one."""
    text = re.sub(r"^```.*?^```|`[^`]*`", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"\]\n *\(", text), "a link on two lines"
    for target in re.findall(r"\]\(([^)]*)\)", text):
        if not target.startswith("https://"):
            name, _, anchor = target.partition("#")
            path = (ROOT / page).parent / name if name else ROOT / page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path.read_text()), target
