"""Former places: where rows of a document were deleted, and may be again after Milvus has lost what was not flushed.

Documents and ledger are two collections without a common moment of durability. After a power failure the ledger may
say that a document has moved, while the delete of its old rows is lost. So a ledger row keeps the places that its
change has left, until that change is known to be durable. Pure.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from pipeline.records import Position

_FORMER = "-"
"""Before the name of a Milvus partition: a former place; no Milvus partition has such a name."""
_WRITTEN_AT = "@"
"""Before `partition/topic` of the record that wrote the rows."""


def merged(*footprints: Mapping[str, int]) -> dict[str, int]:
    """The footprint that covers all of these."""
    covering: dict[str, int] = {}
    for footprint in footprints:
        for partition, chunks in footprint.items():
            covering[partition] = max(chunks, covering.get(partition, 0))
    return covering


def left_behind(footprint: Mapping[str, int], place: Mapping[str, int]) -> dict[str, int]:
    """The part of a footprint beyond the place of the new rows: Milvus partition -> n, of which chunks below n went."""
    return {partition: chunks for partition, chunks in footprint.items() if chunks > place.get(partition, 0)}


def encode_places(footprint: Mapping[str, int], former: Mapping[str, int], written_at: Position | None) -> str:
    """The text of the column `footprint`.

    Former places and the writing record are negative numbers under names of their own: a version of the program that
    does not know them sees places without rows.
    """
    places = dict(footprint)
    places |= {_FORMER + partition: -chunks for partition, chunks in former.items()}
    if written_at is not None:
        places[f"{_WRITTEN_AT}{written_at.partition}/{written_at.topic}"] = -1 - written_at.offset
    return orjson.dumps(places).decode()


def decode_places(text: str) -> tuple[dict[str, int], dict[str, int], Position | None]:
    """Footprint, former places and the writing record, as `encode_places` wrote them."""
    places: dict[str, Any] = orjson.loads(text)
    if not any(name.startswith((_FORMER, _WRITTEN_AT)) for name in places):
        return places, {}, None
    former = {name[1:]: -chunks for name, chunks in places.items() if name.startswith(_FORMER)}
    footprint = {name: chunks for name, chunks in places.items() if not name.startswith((_FORMER, _WRITTEN_AT))}
    for name, number in places.items():
        if name.startswith(_WRITTEN_AT):
            partition, _, topic = name[1:].partition("/")
            return footprint, former, Position(topic, int(partition), -1 - number)
    return footprint, former, None
