"""The fenced code blocks of the documentation, by what stands behind their opening fence."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```(\S+)(?: ([^\n]+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Label and content of each block of a language; the label is what follows the language, or empty."""
    return [(label or "", content) for found, label, content in _BLOCK.findall(page.read_text()) if found == language]
