"""Field paths: fields of a document are taken from anywhere in a record, before the field mapping sees it.

A path is a JSONPath of names and indices (RFC 9535, a singular query): `$.ticket.id`, `$['a b'].items[0]`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pipeline.errors import RecordRejected
from pipeline.intake.reasons import Reason, quoted

Step: TypeAlias = str | int
"""A name in an object, or an index in a list."""
_BETWEEN_PARTS = "\n\n"
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_MOST_BITS = 4_096
"""Of an integer in a text: Python writes 4,300 digits and no more."""


@dataclass(frozen=True, slots=True)
class FieldPath:
    """One place in a record."""

    text: str
    """As it was written."""
    steps: Sequence[Step]

    @classmethod
    def parse(cls, text: str) -> "FieldPath":
        """Read a path. Raises ValueError."""
        from jsonpath_rfc9535 import JSONPathError, compile  # noqa: PLC0415 - 100 ms, where a path is configured

        try:
            query = compile(text)
        except JSONPathError as error:
            raise ValueError(f"{text!r} is no JSONPath such as $.ticket.id: {error}") from None
        if not query.singular_query() or not query.segments:
            raise ValueError(f"{text!r} does not name one field: use names and indices only, such as $.items[0].id")
        return cls(text, tuple(_step(segment.selectors[0]) for segment in query.segments))

    def value(self, content: Mapping[str, Any]) -> Any:
        """The value there; None where there is none."""
        value: Any = content
        for step in self.steps:
            if isinstance(step, str):
                value = value.get(step) if isinstance(value, dict) else None
            else:
                there = isinstance(value, list) and -len(value) <= step < len(value)
                value = value[step] if there else None
        return value

    def remove(self, content: dict[str, Any]) -> None:
        """Take the value out of the content, and objects that it leaves empty. What is in a list stays there."""
        holders: list[tuple[dict[str, Any], str]] = []
        here: Any = content
        for step in self.steps:
            if not isinstance(step, str) or not isinstance(here, dict) or step not in here:
                return
            holders.append((here, step))
            here = here[step]
        for number, (holder, name) in enumerate(reversed(holders)):
            if number == 0 or not holder[name]:
                del holder[name]


class FieldPaths:
    """Moves values to the fields that are named for them. Pure, so one may serve several threads.

    1. A field takes the first of its paths that has a value. The text joins all of its paths with an empty line
       between them, or fills a template.
    2. A field whose paths have no value keeps what the record has under its own name.
    3. What was taken leaves its old place: a text would else be stored a second time, among the metadata. A field of
       its own keeps it (`title: $.title`), and fields with a meaning stay, whatever else they are used for.
    """

    def __init__(
        self,
        fields: Mapping[str, Sequence[str]],
        *,
        text_field: str,
        text_template: str | None,
        kept: Collection[str] = (),
    ) -> None:
        """`kept`: names of the fields with a meaning. Raises ValueError for a path or template that cannot be read."""
        self._kept = frozenset(kept) - {text_field}
        self._paths = {name: tuple(FieldPath.parse(path) for path in paths) for name, paths in fields.items()}
        self._text_field = text_field
        self._template = None if text_template is None else TextTemplate(text_template)
        if self._template is not None and text_field in self._paths:
            raise ValueError(f"record.text_template and record.fields.{text_field} both say what the text is: drop one")

    @property
    def any(self) -> bool:
        """Whether a path or a template is configured."""
        return bool(self._paths) or self._template is not None

    def apply(self, content: dict[str, Any], *, text: bool = True) -> dict[str, Any]:
        """The content with its values moved; the argument is changed, unless it raises RecordRejected.

        `text` False: without that of the text, which is the only one that can be refused.
        """
        taken: list[FieldPath] = []
        fields: dict[str, Any] = {}
        for name, paths in self._paths.items():
            present = [path for path in paths if path.value(content) is not None]
            if not present or (name == self._text_field and not text):
                continue
            if name == self._text_field and len(paths) > 1:
                fields[name] = _BETWEEN_PARTS.join(_part(path, content) for path in present)
            else:
                del present[1:]
                fields[name] = present[0].value(content)
            taken += present
        if self._template is not None and text:
            made, used = self._template.fill(content)
            if used:
                fields[self._text_field] = made
                taken += used
        # A whole object first: what is taken out of it as well stays in it.
        for path in sorted(taken, key=lambda path: len(path.steps)):
            if len(path.steps) > 1 or path.steps[0] not in self._kept:
                path.remove(content)
        return content | fields

    def value(self, name: str, content: Mapping[str, Any]) -> Any:
        """The value of this field, which is not the text; None where there is none."""
        found = (path.value(content) for path in self._paths.get(name, ()))
        return next((value for value in found if value is not None), content.get(name))

    def moves(self, name: str) -> bool:
        """Whether the field has paths."""
        return name in self._paths


class TextTemplate:
    """A text with places for values: `{title}: {$.body.plain}`; `{{` and `}}` are braces."""

    def __init__(self, template: str) -> None:
        """Raises ValueError."""
        self._parts: list[str | FieldPath] = []
        end = 0
        for match in _PLACEHOLDER.finditer(template):
            self._parts.append(template[end : match.start()])
            end = match.end()
            if match[0] in ("{{", "}}"):
                self._parts.append(match[0][0])
            elif match[1] is None or not match[1].strip():
                raise ValueError(f"record.text_template has an unpaired or empty {match[0]}: write {{{{ for a brace")
            else:
                path = match[1].strip()
                self._parts.append(FieldPath.parse(path) if path.startswith("$") else FieldPath(path, (path,)))
        self._parts.append(template[end:])
        if not any(isinstance(part, FieldPath) for part in self._parts):
            raise ValueError("record.text_template names no field, so all documents would have the same text")

    def fill(self, content: Mapping[str, Any]) -> tuple[str, Sequence[FieldPath]]:
        """The text, and the paths that had values; a missing value is an empty one. Raises RecordRejected."""
        used = [part for part in self._parts if isinstance(part, FieldPath) and part.value(content) is not None]
        text = "".join(
            part if isinstance(part, str) else _part(part, content) if part in used else "" for part in self._parts
        )
        return text.strip(), used


def _step(selector: Any) -> Step:
    """The step of a selector by name or by index, which a singular query has no others than."""
    step: Step = selector.name if hasattr(selector, "name") else selector.index
    return step


def _part(path: FieldPath, content: Mapping[str, Any]) -> str:
    value = path.value(content)
    too_long = isinstance(value, int) and value.bit_length() > _MOST_BITS
    if isinstance(value, bool) or not isinstance(value, str | int | float) or too_long:
        raise RecordRejected(Reason.INVALID_TEXT, f"the part of the text at {quoted(path.text)} must be a string")
    return str(value)
