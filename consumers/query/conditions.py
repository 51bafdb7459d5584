"""Conditions as people type them, `key=value`, in the form of a request; for the command and the page."""

import json
import re
from typing import Any

from pipeline.query import is_text

OPERATORS = {"=": "eq", "!=": "ne", ">": "gt", ">=": "gte", "<": "lt", "<=": "lte", "~=": "contains"}
_CONDITION = re.compile(r"(?![!<>~]=)(.+?)(!=|>=|<=|~=|=|>|<)(.*)", re.DOTALL)


def condition(text: str) -> dict[str, Any] | None:
    """`key=value`, or with another operator: numbers, true and false are taken as such, everything else as text.

    So "5" in quotes is a text. Without an operator, `key?`: rows that have the field. None: it is neither.
    """
    match = _CONDITION.fullmatch(text)
    if match is None and len(text) > 1 and text.endswith("?"):
        return {"type": "exists", "key": text[:-1]}
    if match is None:
        return None
    key, operator, value = match.groups()
    try:
        typed = json.loads(value)
    except (ValueError, RecursionError):
        typed = value
    if not isinstance(typed, str | int | float | bool) or (isinstance(typed, str) and not is_text(typed)):
        typed = value
    return {"type": OPERATORS[operator], "key": key, "value": typed}


def all_of(conditions: list[dict[str, Any]]) -> dict[str, Any]:
    """The filter that demands all of the conditions."""
    return {"type": "and", "filters": conditions}
