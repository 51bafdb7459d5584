"""Rows read from JSON lines, CSV and folders of texts. A row that cannot be read is a row with a problem."""

import csv
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from pipeline.errors import UsageError
from pipeline.intake import quoted
from pipeline.timestamps import format_time

TEXTS = frozenset({".txt", ".md"})
JSON_LINES = frozenset({".jsonl", ".ndjson"})
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the value of its record, or why there is none."""

    where: str
    """`file:line`, or the file."""
    value: bytes | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of the records, and what the rows call them."""

    id_field: str
    text_field: str
    time_field: str
    renamed: Mapping[str, str]
    """The field of a row that becomes a field of the record."""
    max_bytes: int
    """A longer line or file is not read whole."""


def read_rows(path: Path, shape: Shape) -> Iterator[Row]:
    """The rows of a file or folder, in the same order each time. Raises UsageError where it cannot be read."""
    if path.is_dir():
        yield from _texts(path, shape)
        return
    try:
        with path.open("rb") as file:
            yield from _csv(file, path.name, shape) if is_csv(path) else json_lines(file, path.name, shape)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None


def is_csv(path: Path) -> bool:
    """Whether the file is CSV. Raises UsageError for a kind of file that is not known."""
    suffix = path.suffix.lower()
    if suffix not in JSON_LINES | {".csv"}:
        raise UsageError(
            f"{path}: name a file .jsonl, .ndjson or .csv, a folder of .txt and .md files, or - for JSON lines on stdin"
        )
    return suffix == ".csv"


def json_lines(file: BinaryIO, name: str, shape: Shape) -> Iterator[Row]:
    """A row for each line that is not blank. Without renamed fields its bytes are sent as they are."""
    for number, line in _lines(file, shape.max_bytes):
        where = f"{name}:{number}"
        if line is None:
            yield Row(where, None, f"the line is longer than kafka.max_record_bytes ({shape.max_bytes:,})")
        elif line.strip():
            try:
                yield Row(where, _renamed_line(line.strip(), shape))
            except (ValueError, RecursionError) as error:
                yield Row(where, None, _reason(error))


def _renamed_line(line: bytes, shape: Shape) -> bytes:
    if not line.startswith(b"{"):
        raise ValueError("the line is not a JSON object")
    if not shape.renamed:
        return line
    # json and not orjson: integers beyond 64 bits keep their digits, and the decoder says what is wrong with them.
    return _serialized(_renamed(json.loads(line, parse_constant=_refuse_constant), shape))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}; JSON has no such number")


def _renamed(fields: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The fields of a row by their names in the record. Raises ValueError where one is missing or in the way."""
    values = {}
    for source, target in shape.renamed.items():
        if fields.get(source) is None:
            raise ValueError(f"the field {quoted(source)}, taken for {quoted(target)}, is missing")
        values[target] = fields[source]
    rest = {name: value for name, value in fields.items() if name not in shape.renamed}
    for target in values:
        if target in rest:
            raise ValueError(f"the field {quoted(target)} is there as well and would be lost: drop or rename it")
    return values | rest


def _csv(file: BinaryIO, name: str, shape: Shape) -> Iterator[Row]:
    """A row for each line below the header. An empty cell is a missing field; every value is a text."""
    csv.field_size_limit(shape.max_bytes)
    reader = csv.reader(_csv_lines(file, name, shape.max_bytes), strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise UsageError(f"{name}:1: the header is not CSV: {error}") from None
    if not header or "" in header or len(set(header)) < len(header):
        raise UsageError(f"{name}:1: the first line must name every column, each with a name of its own")
    while True:
        where = f"{name}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(where, None, f"the line is not CSV: {error}")
            continue
        if not cells:
            continue
        if len(cells) != len(header):
            yield Row(where, None, f"the line has {len(cells)} cells; the header names {len(header)}")
            continue
        fields = {column: cell for column, cell in zip(header, cells, strict=True) if cell}
        try:
            yield Row(where, _serialized(_renamed(fields, shape)))
        except ValueError as error:
            yield Row(where, None, _reason(error))


def _csv_lines(file: BinaryIO, name: str, max_bytes: int) -> Iterator[str]:
    for number, line in _lines(file, max_bytes):
        if line is None:
            raise UsageError(f"{name}:{number}: the line is longer than kafka.max_record_bytes ({max_bytes:,})")
        yield line.decode("utf-8", "surrogateescape")  # such a row is found when it is serialized


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines with their numbers; None for one that is too long."""
    number = 0
    while line := file.readline(max_bytes + 2):
        number += 1
        if len(line) > max_bytes and not line.endswith(b"\n"):
            while (rest := file.readline(max_bytes)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def _texts(folder: Path, shape: Shape) -> Iterator[Row]:
    """A row for each text in the folder: its relative path, its content, and when it was changed."""
    unread: list[OSError] = []
    for place, below, names in os.walk(folder, onerror=unread.append):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in TEXTS:
                yield _text(folder, Path(place, name), shape)
    for error in unread:
        yield Row(str(error.filename), None, f"the folder cannot be read: {error.strerror}")


def _text(folder: Path, path: Path, shape: Shape) -> Row:
    where = path.relative_to(folder).as_posix()
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for
            return Row(where, None, "it is no regular file")
        with path.open("rb") as file:
            content = file.read(shape.max_bytes + 1)
    except OSError as error:
        return Row(where, None, f"it cannot be read: {error.strerror}")
    if len(content) > shape.max_bytes:
        return Row(where, None, f"it is larger than kafka.max_record_bytes ({shape.max_bytes:,})")
    if b"\0" in content:
        return Row(where, None, "it is binary: it holds a zero byte")
    try:
        text = content.removeprefix(_BYTE_ORDER_MARK).decode()
        moment = format_time(facts.st_mtime_ns // 1_000_000)
        return Row(where, _serialized({shape.id_field: where, shape.text_field: text, shape.time_field: moment}))
    except (ValueError, OverflowError) as error:
        return Row(where, None, _reason(error))


def _serialized(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"it is not valid JSON at column {error.colno}: {error.msg}"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def renames(sources: Iterable[tuple[str, str | None, str]]) -> dict[str, str]:
    """The fields to rename, of (option, the row's field, the record's field). Raises UsageError for one used twice."""
    renamed: dict[str, str] = {}
    for option, source, target in sources:
        if source is None:
            continue
        if source in renamed:
            raise UsageError(f"{option} {source}: this field is taken for {renamed[source]!r} already")
        renamed[source] = target
    return {source: target for source, target in renamed.items() if source != target}
