"""Links between the pages lead somewhere, and every page can be reached from the README."""

from pathlib import Path

import pytest

from tests.docs.blocks import DOCS
from tests.docs.links import broken_links, internal_links, named_paths

ROOT = DOCS.parent
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    assert [name for name in named_paths(page) if not (ROOT / name).exists()] == []


def test_the_readme_links_every_page() -> None:
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in internal_links(ROOT / "README.md")}
    assert [str(page.relative_to(ROOT)) for page in DOCS.rglob("*.md") if page.resolve() not in linked] == []


@pytest.mark.parametrize("target", ["other.md", "#no-heading", "page.md#no-heading"])
def test_a_broken_link_is_found(target: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A heading: with `code`\n\n[fine](#a-heading-with-code) [here]({target})\n")
    assert broken_links(page) == [target]
