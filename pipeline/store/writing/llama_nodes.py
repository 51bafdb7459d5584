"""What LlamaIndex reads of a row beside its columns: the node as JSON, with metadata and source document. Pure.

Its class for Milvus takes node id and metadata from nowhere else, and the source document, too.
"""

from collections.abc import Callable, Mapping

import orjson

from pipeline.records import MAX_METADATA_BYTES, NODE_FIELDS, TENANT_FIELD, Document

_CONTENT, _TYPE = NODE_FIELDS
_CLASS = "TextNode"
_SOURCE, _DOCUMENT = "1", "4"
"""LlamaIndex's numbers of the relationship to the source, and of the kind of node that it is."""
_LONGEST_ID = "0" * 64
_MARK = "-llamaindex"

NodeMaker = Callable[[str], Mapping[str, str]]
"""The fields of the row of this id."""


def node_maker(document: Document) -> NodeMaker | None:
    """What makes the fields of a document's rows; None where Milvus would refuse metadata and fields together.

    Everything that is not in the node has LlamaIndex's default; the text is taken from its column.
    """
    shared = orjson.dumps(
        {
            "metadata": {**document.metadata, "event_time": document.event_time},
            "relationships": {
                _SOURCE: {"node_id": document.doc_id, "node_type": _DOCUMENT, "class_name": "RelatedNodeInfo"}
            },
            "class_name": _CLASS,
        }
    ).decode()

    def fields(row_id: str) -> Mapping[str, str]:
        # An id is hex digits: nothing in it is escaped.
        return {_CONTENT: f'{{"id_":"{row_id}",{shared[1:]}', _TYPE: _CLASS}

    tenant = {} if document.tenant is None else {TENANT_FIELD: document.tenant}
    size = len(orjson.dumps({**document.metadata, **tenant, **fields(_LONGEST_ID)}))
    return fields if size <= MAX_METADATA_BYTES else None


def with_nodes(fingerprint: str) -> str:
    """The fingerprint of rows that have these fields: so a record that is read again adds them to its rows."""
    return fingerprint + _MARK


def chunking_of(fingerprint: str) -> str:
    """The part of a fingerprint that decides texts and vectors."""
    return fingerprint.removesuffix(_MARK)
