"""Every link between the pages leads to a file, and to a heading of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKS = [
    pytest.param(page, link, id=f"{page.relative_to(ROOT)}:{link}")
    for page in PAGES
    for link in dict.fromkeys(
        re.findall(r"""(?:\]\(|src=")([^)":]+)[)"]""", page.read_text(encoding="utf-8"))
    )
]


def _anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_leads_somewhere(page: Path, link: str) -> None:
    file, _, anchor = link.partition("#")
    target = page.parent / file if file else page
    assert target.exists()
    assert not anchor or anchor in _anchors(target)


def test_the_pages_link_to_each_other() -> None:
    assert len(LINKS) > 20
    linked = {
        (page.values[0].parent / page.values[1].partition("#")[0]).resolve() for page in LINKS
    }
    assert [page for page in PAGES if page not in linked and page.name != "README.md"] == []
