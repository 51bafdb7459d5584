"""The examples of docs/record-formats.md become what the page says."""

import pytest

from pipeline.intake import Decoder, IntakeLimits, Reason, RecordMapping
from pipeline.records import Delete, Operation, Position, Put, Rejected, SourceRecord
from tests.docs.blocks import DOCS, blocks

PAGE = DOCS / "record-formats.md"
NOW_MS = 1_795_348_800_000
EXAMPLES = blocks(PAGE, "json")


def decode(value: str) -> Operation:
    limits = IntakeLimits(2**20, 600_000, None)
    record = SourceRecord(Position("documents", 0, 1), NOW_MS, b"key", value.encode())
    return Decoder(RecordMapping(delete_field="deleted"), limits, append=False).decode(record, NOW_MS)


@pytest.mark.parametrize(("label", "value"), EXAMPLES)
def test_an_example_becomes_what_its_label_says(label: str, value: str) -> None:
    operation = decode(value)
    match operation:
        case Put():
            assert label == "put"
        case Delete():
            assert label == "delete"
        case Rejected():
            assert label == operation.reason


def test_the_page_explains_every_reason() -> None:
    page = PAGE.read_text()
    assert [reason for reason in Reason if f"`{reason}`" not in page] == []
