"""Links in README, CONTRIBUTING and docs point to existing files and headings."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])


def _without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", _without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def _broken_links(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _without_code(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_relative_links_point_to_existing_files_and_headings(page: Path) -> None:
    assert _broken_links(page) == []


def test_links_to_missing_files_and_headings_are_reported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `two`\n[a](#one-two) [b](#three) [c](gone.md) [d](page.md#four) [e](https://x.y/z.md)\n")
    assert _broken_links(page) == ["#three", "gone.md", "page.md#four"]


def test_paths_to_modules_in_the_architecture_page_exist() -> None:
    text = _without_code(CHECKOUT / "docs" / "architecture.md")
    paths = re.findall(r"`((?:preprocess|hdf5_writer|loaders|trainer|tests)/[\w./]*)`", text)
    assert paths
    assert [path for path in paths if not (CHECKOUT / path).exists()] == []
