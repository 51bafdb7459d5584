"""Avro: from a registered schema to a function that reads the bytes written with it."""

import io
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from pipeline.intake.formats.registry.plain import AS_IS, plain
from pipeline.intake.formats.registry.schemas import RegisteredSchema
from pipeline.intake.formats.values import MAX_DEPTH, MOST_DECIMAL_BYTES, too_deep
from pipeline.intake.reasons import quoted

_PLAIN = frozenset({"null", "boolean", "int", "long", "string", "enum"})
"""Types whose values are those of JSON already."""
_NO_BYTES = frozenset({"null"})

Read = Callable[[io.BytesIO, Any, None], Any]


def _bound_decimals() -> None:
    """Have fastavro, for the whole process, refuse decimals that are too long, with ValueError."""
    from fastavro.read import LOGICAL_READERS  # noqa: PLC0415 - an extra

    for kind in ("bytes-decimal", "fixed-decimal"):
        if not hasattr(read := LOGICAL_READERS[kind], "bounded"):

            def bounded(data: Any, *more: Any, read: Callable[..., Any] = read) -> Any:
                if len(data) > MOST_DECIMAL_BYTES:
                    raise ValueError(f"a decimal has {len(data):,} bytes, more than {MOST_DECIMAL_BYTES}")
                return read(data, *more)

            bounded.bounded = True  # type: ignore[attr-defined]
            LOGICAL_READERS[kind] = bounded


class AvroReader:
    """Reads values of one schema; pure, so one may serve several threads."""

    def __init__(self, schema: RegisteredSchema, mapped: frozenset[str]) -> None:
        """`mapped`: fields with a meaning, in which bytes stay bytes and are refused by the mapping of fields.

        Raises Exception of many kinds where the schema cannot be used.
        """
        from fastavro import parse_schema, schemaless_reader  # noqa: PLC0415 - an extra
        from fastavro._read_py import schemaless_reader as careful_reader  # noqa: PLC0415

        _bound_decimals()

        named: dict[str, Any] = {}
        for _, text in schema.references:
            parse_schema(orjson.loads(text), named_schemas=named)
        self._referred = dict(named)
        self._declared = orjson.loads(schema.text)
        self._schema = parse_schema(self._declared, named_schemas=named)
        shape = _Shape(named)
        height, _ = shape.measure(self._schema)
        # The compiled reader has no limit of depth: nested far enough, a record of one megabyte ends the process.
        self._read: Read = careful_reader if shape.recursive or height > MAX_DEPTH else schemaless_reader
        self._converts = shape.converts or shape.recursive or height > MAX_DEPTH
        self._mapped = mapped

    def read(self, body: bytes) -> Any:
        """The value, as JSON would have it. Raises RecordRejected, ValueError for bytes that do not fit the schema."""
        file = io.BytesIO(body)
        try:
            value = self._read(file, self._schema, None)
        except RecursionError:
            raise too_deep("the value") from None
        except MemoryError:
            raise
        # There is no list of what fastavro raises for broken bytes: EOFError, IndexError, OverflowError …
        except Exception as error:
            raise ValueError(f"{self._where(body)}: {str(error) or type(error).__name__}") from None
        if file.tell() != len(body):
            raise ValueError(f"{len(body) - file.tell():,} bytes are left behind the last field")
        if not self._converts:
            return value
        if not isinstance(value, dict):
            return plain("", value)
        for name, member in value.items():
            if type(member) not in AS_IS and not (type(member) is bytes and name in self._mapped):
                value[name] = plain(name, member)
        return value

    def _where(self, body: bytes) -> str:
        """The field that cannot be read: the last one of the first fields that fail together."""
        from fastavro import parse_schema  # noqa: PLC0415 - an extra

        # Other types may have "fields", too, which nothing has checked.
        record = isinstance(self._declared, dict) and self._declared["type"] in ("record", "error")
        fields = self._declared["fields"] if record else []

        def fails(index: int) -> bool:
            first = {**self._declared, "fields": fields[: index + 1]}
            schema = parse_schema(first, named_schemas=dict(self._referred))
            try:
                self._read(io.BytesIO(body), schema, None)
            except MemoryError:
                raise
            except Exception:  # as above
                return True
            return False

        # What fails with some fields fails with more. One field after the other would read the body once for each.
        index = bisect_left(range(len(fields)), True, key=fails)
        if index == len(fields):
            return "it cannot be read"
        return f"the field {quoted(fields[index]['name'])} cannot be read"


class _Shape:
    """What is to be known of a parsed schema before a value of it is read."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._measured: dict[str, tuple[int, int]] = {}
        self._open: set[str] = set()
        self.recursive = False
        self.converts = False
        """Whether a value may hold others than JSON has."""

    def measure(self, schema: Any) -> tuple[int, int]:
        """Levels of records, lists and maps, and the fewest bytes of a value.

        Raises ValueError for a list whose items have no bytes: a few bytes of it would be any number of items.
        """
        if isinstance(schema, list):
            branches = [self.measure(branch) for branch in schema]
            return max((height for height, _ in branches), default=0), 1
        if isinstance(schema, str):
            return self._name(schema)
        kind = schema["type"]
        return self._complex(schema, kind) if isinstance(kind, str) else self.measure(kind)

    def _complex(self, schema: Mapping[str, Any], kind: str) -> tuple[int, int]:
        if kind in ("record", "error"):
            return self._record(schema)
        if kind in ("array", "map"):
            height, least = self.measure(schema["items" if kind == "array" else "values"])
            if kind == "array" and least == 0:
                raise ValueError("it has a list of items that take no bytes")
            return height + 1, 1
        if kind == "fixed":
            self.converts = True
            return 0, int(schema["size"])
        self.converts |= kind not in _PLAIN or "logicalType" in schema
        return 0, 0 if kind in _NO_BYTES else 1

    def _name(self, name: str) -> tuple[int, int]:
        if name in self._named:
            return self.measure(self._named[name])
        self.converts |= name not in _PLAIN
        return 0, 0 if name in _NO_BYTES else 1

    def _record(self, schema: Mapping[str, Any]) -> tuple[int, int]:
        name = schema["name"]
        if name in self._open:
            self.recursive = True
            return 0, 1
        if name not in self._measured:
            self._open.add(name)
            fields = [self.measure(field["type"]) for field in schema["fields"]]
            self._open.discard(name)
            height = max((height for height, _ in fields), default=0) + 1
            self._measured[name] = height, sum(least for _, least in fields)
        return self._measured[name]
