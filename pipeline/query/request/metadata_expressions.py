"""Conditions on metadata as Milvus expressions, and their exact opposites.

A metadata field may be absent, its rows may hold different types, and servers differ in what a comparison means then.
The forms below were compared on Milvus 2.3.5 and Milvus Lite 3.2. What differs there:

1. A row without the field: on 2.3.5 `!=` and every `not` hold; on Lite a comparison is unknown, and its `not`, too. So
   an opposite always begins with `not exists`.
2. A value of another type: on 2.3.5 a comparison is false; on Lite an order is unknown, and its `not`, too. So the
   opposite of an order names the other types there.
3. `in` over metadata, `%` and `_` in `like`: not the same. They are not used, but for `like "%"`, which on Lite holds
   for exactly the texts.
4. A text that is itself JSON: Lite reads it where a path or a list function leads into it. So there texts are excluded.
5. A whole number in a list: 2.3.5 finds 2 in `[2]` and 2.0 in `[2.0]` and in `[2]`. So both are looked for.
"""

from collections.abc import Sequence

from pipeline.query.request.filters import (
    PATH_CUT,
    Comparison,
    Element,
    Elements,
    Equality,
    Existence,
    Membership,
    Ordering,
    Prefix,
    Scalar,
    values_of,
)
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.store import Capabilities, literal

_SYMBOLS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_OPPOSITES = {"gt": "<=", "gte": "<", "lt": ">=", "lte": ">"}
_EXACT_FLOAT = 2**53
"""Up to here a whole number is the same as a floating-point number."""
_LITE_WORDS = frozenset(
    ("and", "or", "not", "in", "like", "is", "null", "exists", "iso", "interval", "true", "false", "_seq", "_partition")
)
"""Names that Lite does not take for a field where they are not quoted."""


def balanced(terms: Sequence[str], operator: str) -> str:
    """Join terms as a balanced tree of parentheses.

    A flat chain of 1,000 terms takes Milvus 2.3.5 1.3 s to parse, and the time grows with the square; a tree 10 ms.
    """
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({balanced(terms[:half], operator)} {operator} {balanced(terms[half:], operator)})"


def metadata_reference(*path: str) -> str:
    """The expression for one key of the dynamic field, or for a key inside its value.

    Raises ValueError for a name with `][` inside: Milvus would read another path, and some of them end the server.
    """
    if any(PATH_CUT in name for name in path):
        raise ValueError("a name with ][ inside has no expression that Milvus reads as that name")
    return "$meta" + "".join(f"[{literal(name)}]" for name in path)


def prefix_range(reference: str, start: str) -> str:
    r"""Strings that begin with `start`, as a range: the servers differ in what `%`, `_` and `\\` mean in `like`."""
    after = _prefix_end(start)
    if after is None:
        return f"{reference} >= {literal(start)}"
    return f"({reference} >= {literal(start)} and {reference} < {literal(after)})"


def _prefix_end(start: str) -> str | None:
    """The first string after all that begin with `start`; None: there is none."""
    end = start.rstrip("\U0010ffff")
    if not end:
        return None
    following = ord(end[-1]) + 1
    return end[:-1] + chr(0xE000 if following == 0xD800 else following)  # UTF-8 has no surrogates


class MetadataField:
    """One field of the metadata, at the top of the record or nested, in the expressions of one kind of server."""

    def __init__(self, path: Sequence[str], server: Capabilities) -> None:
        """Raises ValueError for a name that has no expression."""
        self.reference = metadata_reference(*path)
        self._path = path
        self._server = server
        top = metadata_reference(path[0])
        self._guard = f'not ({top} like "%")' if len(path) > 1 and server.json_in_texts else ""

    @property
    def exists(self) -> str:
        """Whether a row has the field; in parentheses, as 2.3.5 takes all of `exists a or b` for the field."""
        return self._only(f"(exists {self.reference})")

    def condition(self, node: Comparison, at: str, *, negated: bool) -> str:
        """A comparison of the field, or its exact opposite; `at` is its JSON pointer.

        Raises InvalidRequest where the server cannot look into this list.
        """
        match node:
            case Existence():
                return self.exists if node.value != negated else f"(not {self.exists})"
            case Equality() | Membership():
                values = [literal(value) for value in values_of(node)]
                if negated == (node.type in ("ne", "nin")):
                    return self._only(balanced([f"{self.reference} == {value}" for value in values], "or"))
                return self._unless(balanced([f"{self.reference} != {value}" for value in values], "and"))
            case Ordering():
                holds = f"{self.reference} {_SYMBOLS[node.type]} {literal(node.value)}"
                opposite = f"{self.reference} {_OPPOSITES[node.type]} {literal(node.value)}"
                return self._unless(self._not_so(holds, opposite, node.value)) if negated else self._only(holds)
            case Prefix():
                holds = prefix_range(self.reference, node.value)
                opposite = self._outside(node.value)
                return self._unless(self._not_so(holds, opposite, node.value)) if negated else self._only(holds)
            case Element() | Elements():
                return self._contains(node, at, negated=negated)

    def of_kind(self, example: Scalar) -> str:
        """Whether a row holds a value of the same type as the example. (Lite takes true for a number.)"""
        if isinstance(example, bool):
            return self._only(f"({self.reference} == true or {self.reference} == false)")
        if isinstance(example, str):
            return self._only(f'{self.reference} >= ""')
        return self._only(f"({self.reference} >= 0 or {self.reference} < 0)")

    def _only(self, holds: str) -> str:
        return f"({holds} and {self._guard})" if self._guard else holds

    def _unless(self, otherwise: str) -> str:
        return f"((not {self.exists}) or {otherwise})"

    def _not_so(self, holds: str, opposite: str, value: Scalar) -> str:
        """The opposite of an order for rows that have the field."""
        if not self._server.unknown_comparisons:
            return f"(not ({holds}))"
        # Python multiplies a text or a list by zero to an empty one; of an object nothing is known.
        is_other = f'not ({self.reference} like "%")' if isinstance(value, str) else f"{self.reference} * 0 != 0"
        return f"({is_other} or {opposite})"

    def _outside(self, start: str) -> str:
        before, end = f"{self.reference} < {literal(start)}", _prefix_end(start)
        return before if end is None else f"({before} or {self.reference} >= {literal(end)})"

    def _contains(self, node: Element | Elements, at: str, *, negated: bool) -> str:
        inside, values = self._list(at), values_of(node)
        # With several values one call finds any of them.
        calls = [[value] for value in values] if node.type == "contains_all" else [values]
        holds = balanced([_contains_any(inside, call) for call in calls], "and")
        text = f'{self.reference} like "%"' if self._server.json_in_texts else ""
        if negated:
            return self._unless(f"({text} or not ({holds}))" if text else f"(not ({holds}))")
        return self._only(f"({holds} and not ({text}))" if text else holds)

    def _list(self, at: str) -> str:
        """The field as a function of lists takes it."""
        if not self._server.lists_by_plain_name:
            return self.reference
        name, *inner = self._path
        plain = name.replace("_", "a").isalnum() and not name[0].isdigit()
        if not plain or not name.isascii() or name.lower() in _LITE_WORDS:
            raise InvalidRequest(
                f"{at}/key",
                "names a list that Milvus Lite cannot look into: its name must be ASCII letters, digits and _, and no "
                "word of Milvus's filters",
            )
        return name + "".join(f"[{literal(part)}]" for part in inner)


def _contains_any(inside: str, values: Sequence[Scalar]) -> str:
    """Lists with at least one of the values; each type in a call of its own, as 2.3.5 compares with one type."""
    texts = [value for value in values if isinstance(value, str)]
    booleans = [value for value in values if isinstance(value, bool)]
    wholes = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    floats = [value for value in values if isinstance(value, float)]
    floats = list(dict.fromkeys([*floats, *(float(value) for value in wholes if abs(value) <= _EXACT_FLOAT)]))
    groups: tuple[Sequence[Scalar], ...] = (texts, booleans, wholes, floats)
    lists = [", ".join(map(literal, dict.fromkeys(group))) for group in groups if group]
    return balanced([f"json_contains_any({inside}, [{elements}])" for elements in lists], "or")
