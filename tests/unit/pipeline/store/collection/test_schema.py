"""The columns of both collections."""

from pipeline.records import NOT_METADATA, RESERVED_NAMES, TENANT_FIELD
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.schema import documents_spec, ledger_spec
from pipeline.store.writing.ledger.ledger_rows import ENTRY_FIELDS


def test_metadata_can_have_no_name_of_a_column() -> None:
    spec = documents_spec("docs", dimension=2, index=IndexSettings("FLAT"), stamp={}, bm25=True)
    assert {field.name for field in spec.fields} | {TENANT_FIELD, *NOT_METADATA} == RESERVED_NAMES


def test_the_ledger_has_a_column_for_every_field_of_an_entry() -> None:
    assert {field.name for field in ledger_spec("docs").fields} == {*ENTRY_FIELDS, "vector"}
