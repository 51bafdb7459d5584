"""The links of the Markdown pages, and the anchors that a page has."""

import re
from collections.abc import Iterator
from pathlib import Path

_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
_PATH = re.compile(r"`((?:pipeline|consumers|tests|docs|k8s|compose)/[\w/.-]+)`")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def internal_links(page: Path) -> Iterator[str]:
    """Targets of the page's links to other files or anchors of the repository."""
    text = _CODE.sub("", _FENCE.sub("", page.read_text()))
    yield from (target for target in _LINK.findall(text) if "://" not in target and not target.startswith("mailto:"))


def named_paths(page: Path) -> list[str]:
    """Files and folders of the repository that the page names in code marks."""
    return _PATH.findall(_FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, formed as GitHub forms them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text())):
        words = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        anchor, number = words, 0
        while anchor in found:
            number += 1
            anchor = f"{words}-{number}"
        found.add(anchor)
    return found


def broken_links(page: Path) -> list[str]:
    """Links of a page that lead to no file, or to no heading of it."""
    broken = []
    for target in internal_links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken
