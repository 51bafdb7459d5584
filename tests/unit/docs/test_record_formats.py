"""The examples of docs/record-formats.md become what the page says."""

import pytest
import yaml

from consumers.config.record import RecordSection
from pipeline.intake import Decoder, IntakeLimits, Reason, RecordMapping
from pipeline.records import Delete, Operation, Position, Put, Rejected, SourceRecord
from tests.docs.blocks import DOCS, blocks

PAGE = DOCS / "record-formats.md"
NOW_MS = 1_795_348_800_000
EXAMPLES = blocks(PAGE, "json")


def decode(value: str, mapping: RecordMapping) -> Operation:
    limits = IntakeLimits(2**20, 600_000, None)
    record = SourceRecord(Position("documents", 0, 1), NOW_MS, b"key", value.encode())
    return Decoder(mapping, limits, append=False).decode(record, NOW_MS)


def test_the_fields_from_elsewhere_are_taken_as_the_page_says() -> None:
    (section,) = (yaml.safe_load(text)["record"] for _, text in blocks(PAGE, "yaml"))
    (value,) = (text for label, text in EXAMPLES if label == "mapped")
    mapping = RecordMapping(**RecordSection.model_validate(section).model_dump())
    operation = decode(value, mapping)
    assert isinstance(operation, Put), operation
    assert (operation.document.doc_id, operation.document.text) == ("4713", "Refunds\n\nThey take ten days.")
    assert operation.document.metadata == {"title": "Refunds", "ticket": {"lang": "en"}}


@pytest.mark.parametrize(("label", "value"), [example for example in EXAMPLES if example[0] != "mapped"])
def test_an_example_becomes_what_its_label_says(label: str, value: str) -> None:
    operation = decode(value, RecordMapping(delete_field="deleted"))
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
