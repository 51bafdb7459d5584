"""HTML read back as a browser would, for assertions about its elements."""

from dataclasses import dataclass
from html.parser import HTMLParser

from typing_extensions import override

_BLOCKS = {"p", "div", "li", "dt", "dd", "td", "th", "h1", "h2", "h3", "option", "summary", "span"}


@dataclass(frozen=True, slots=True)
class Element:
    """A start tag."""

    tag: str
    attributes: dict[str, str | None]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.text: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))
        if tag in _BLOCKS:
            self.text.append(" ")

    @override
    def handle_data(self, data: str) -> None:
        self.text.append(data)


def elements(html: str, tag: str = "") -> list[Element]:
    """The start tags of a page, of one name or all."""
    reader = _Reader()
    reader.feed(html)
    return [element for element in reader.elements if tag in ("", element.tag)]


def text(html: str) -> str:
    """The text of a page, with white space as one blank."""
    reader = _Reader()
    reader.feed(html)
    return " ".join("".join(reader.text).split())


def links(html: str) -> dict[str, str]:
    """Address of each link by its text; text and address without references."""
    found: dict[str, str] = {}

    class Links(_Reader):
        address = ""

        @override
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "a":
                self.address, self.text = dict(attrs).get("href") or "", []

        @override
        def handle_endtag(self, tag: str) -> None:
            if tag == "a":
                found[" ".join("".join(self.text).split())] = self.address

    Links().feed(html)
    return found
