"""The search form: what an address means, the request it makes, and the addresses of other searches. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import orjson

from consumers.query.conditions import OPERATORS, all_of, condition

PAGE_SIZE = 10
MODES = {"": "automatic", "hybrid": "meaning and words", "dense": "meaning", "keyword": "exact words"}
SPANS = {"": "any time", "1h": "last hour", "24h": "last 24 hours", "7d": "last 7 days", "30d": "last 30 days"}
HALF_LIVES = {"": "off", "1h": "half-life 1 hour", "24h": "half-life 1 day", "7d": "half-life 7 days"}
COMPARISONS = {
    "=": "is",
    "!=": "is not",
    ">": "more than",
    ">=": "at least",
    "<": "less than",
    "<=": "at most",
    "~=": "contains",
}
CUSTOM = "custom"
"""In place of a span: `from` and `to` count."""
_MOST_CONDITIONS = 20
_LONGEST_LINKED = 2_000
"""Characters of an address that a page repeats in a link for each bar and each value."""
_LONGEST_VALUE = 100
"""Of a value that a link narrows a search to; a longer one is a text."""
_LARGEST = 2**53
_SIGNS = {name: sign for sign, name in OPERATORS.items()}


class BadCondition(ValueError):
    """A condition of the address that is none; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of the filter as the page shows it."""

    text: str
    """As in the address."""
    key: str
    comparison: str
    value: str


@dataclass(frozen=True, slots=True)
class SearchForm:
    """The fields of the form; an empty one is not set."""

    q: str = ""
    similar: str = ""
    """Id of a document: others like it, instead of a search."""
    mode: str = ""
    last: str = ""
    """A span; `from_` and `to` are empty then."""
    from_: str = ""
    to: str = ""
    where: tuple[str, ...] = ()
    recency: str = ""
    chunks: bool = False
    """Every chunk that matches, not the best one of each document."""
    scores: bool = False
    """Show the scores of the results."""
    page: int = 1

    @property
    def times(self) -> dict[str, str]:
        """The time range as a request has it."""
        if self.last:
            return {"last": self.last}
        return {name: value for name, value in (("from", self.from_), ("to", self.to)) if value}

    @property
    def conditions(self) -> list[Condition]:
        """The conditions as they are understood, without those that are none."""
        return [_condition(text, parsed) for text in self.where if (parsed := condition(text)) is not None]

    def body(self, limit: int) -> dict[str, Any]:
        """The request of the search, or of the search for similar documents; raises BadCondition."""
        body: dict[str, Any] = {"doc_id": self.similar} if self.similar else {"query": self.q}
        body["limit"] = limit
        if self.mode and not self.similar:
            body["mode"] = self.mode
        if self.times:
            body["time"] = self.times
        if self.where:
            body["filter"] = all_of([_parsed(text) for text in self.where])
        if self.recency:
            body["recency"] = {"half_life": self.recency}
        if self.chunks:
            body["group_by"] = None
        return body

    def address(self, **changes: Any) -> str:
        """The address of this search with some fields changed; on the first page unless `page` is one of them."""
        other = replace(self, **{"page": 1, **changes})
        pairs = [
            ("q", other.q),
            ("similar", other.similar),
            ("mode", other.mode),
            ("last", other.last),
            ("from", other.from_),
            ("to", other.to),
            *(("where", text) for text in other.where),
            ("recency", other.recency),
            ("chunks", "1" if other.chunks else ""),
            ("scores", "1" if other.scores else ""),
            ("page", str(other.page) if other.page > 1 else ""),
        ]
        query = urlencode([(name, value) for name, value in pairs if value], errors="replace")
        return f"/?{query}" if query else "/"

    @property
    def linkable(self) -> bool:
        """Whether the address is short enough to be in a hundred links of its page."""
        return len(self.address()) <= _LONGEST_LINKED

    def without(self, text: str) -> str:
        """The address of this search without one of its conditions."""
        return self.address(where=tuple(other for other in self.where if other != text))

    def narrower(self, key: str, value: object) -> str:
        """The address of this search among documents whose field has this value; empty where none can say it."""
        if isinstance(value, str):
            value = value.strip() if len(value) <= _LONGEST_VALUE else ""
            typed = condition(f"k={value}")
            text = value if typed is not None and typed["value"] == value else orjson.dumps(value).decode()
        elif isinstance(value, bool | int):
            text = orjson.dumps(value).decode() if abs(value) < _LARGEST else ""
        else:
            text = ""
        if (not value and value not in (0, False)) or not text or not _plain(key):
            return ""
        return self.address(where=tuple(dict.fromkeys((*self.where, f"{key}={text}"))))

    def during(self, from_: str, to: str) -> str:
        """The address of this search in another time range."""
        return self.address(last="", from_=from_, to=to)


@dataclass(frozen=True, slots=True)
class Parsed:
    """An address as the form has it."""

    form: SearchForm
    rewritten: bool = False
    """It came from the form, with empty fields and those of a new condition: the search has a shorter address."""
    problem: str = ""
    """Why those three fields make no condition."""


def parse_form(pairs: Sequence[tuple[str, str]]) -> Parsed:
    """The form of an address; the last value of a name counts, names that are not known are ignored."""
    last = dict(pairs)
    where = [value.strip() for name, value in pairs if name == "where" and value.strip()]
    problem = ""
    if added := last.get("value", "").strip():
        try:
            where.append(_written(last.get("key", "").strip(), last.get("op", "="), added))
        except BadCondition as error:
            problem = str(error)
    if len(where) > _MOST_CONDITIONS:
        problem = f"a page takes {_MOST_CONDITIONS} conditions; POST /v1/search takes more"
    span = last.get("last", "").strip()
    custom = span in ("", CUSTOM)
    form = SearchForm(
        q=last.get("q", "").strip(),
        similar=last.get("similar", ""),
        mode=last.get("mode", ""),
        last="" if custom else span,
        from_=last.get("from", "").strip() if custom else "",
        to=last.get("to", "").strip() if custom else "",
        where=tuple(dict.fromkeys(where))[:_MOST_CONDITIONS],
        recency=last.get("recency", ""),
        chunks=last.get("chunks", "") not in ("", "0"),
        scores=last.get("scores", "") not in ("", "0"),
        page=_page(last.get("page", "")),
    )
    return Parsed(form, "value" in last and not problem, problem)


def _written(key: str, operator: str, value: str) -> str:
    """A condition made of the three fields, as `where` has it."""
    if not key:
        raise BadCondition("choose the field that the new condition compares")
    if not _plain(key):
        raise BadCondition(
            "a field whose name contains = ! < or >, or ends with ~, can be compared by POST /v1/search only"
        )
    if operator not in OPERATORS:
        raise BadCondition(f"a condition is one of {' '.join(OPERATORS)}")
    return f"{key}{operator}{value}"


def _plain(key: str) -> bool:
    """Whether a condition on this field can be written as text."""
    return bool(key) and key == key.strip() and not any(sign in key for sign in "=<>!") and not key.endswith("~")


def _parsed(text: str) -> dict[str, Any]:
    parsed = condition(text)
    if parsed is None:
        raise BadCondition(f"a condition is written where=key=value; operators: {' '.join(OPERATORS)}")
    return parsed


def _condition(text: str, parsed: Mapping[str, Any]) -> Condition:
    if parsed["type"] == "exists":
        return Condition(text, parsed["key"], "exists", "")
    return Condition(text, parsed["key"], COMPARISONS[_SIGNS[parsed["type"]]], _shown(parsed["value"]))


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _page(text: str) -> int:
    """A page number; 1 for whatever is none."""
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) <= 4 else 1
