"""The parts of a batch: whatever the cuts, every record, operation and refusal is in one of them, and in order."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest import APPEND, UPSERT, BatchesInFlight, WriteMode
from pipeline.ingest.cutting import WHOLE, cut
from pipeline.ingest.queues.batching import Batch
from pipeline.ingest.stages import Decoded, Planned, Refused, Submitted, folded_deletes, sizes_of
from pipeline.records import Chunk, Delete, Position, Put, Rejected
from pipeline.store import Vectors, WritePlan
from tests.support.documents import delete, put, source_record
from tests.support.examples import examples

KINDS = ("put", "put", "put", "delete", "unchanged", "refused", "bad")
script = st.lists(
    st.tuples(
        st.sampled_from(KINDS), st.integers(0, 5), st.integers(0, 1), st.integers(5, 40), st.none() | st.integers(0, 3)
    ),
    min_size=4,
    max_size=30,
)
"""Of each record: what becomes of it, its document, its Kafka partition, the tokens of its text, its version."""


def planned(mode: WriteMode, records: Sequence[tuple[str, int, int, int, int | None]], shuffled: int) -> Planned:
    """A batch of these records, as the first stage hands it on."""
    raw, rejected = [], []
    operations: list[Put | Delete] = []
    kinds: dict[Position, tuple[str, int]] = {}
    for offset, (kind, name, partition, tokens, version) in enumerate(records):
        position = Position("documents", partition, offset)
        raw.append(source_record(b"v" * (offset % 7), at=position))
        kinds[position] = kind, tokens
        key = f"{partition}{name}"
        if kind == "bad":
            rejected.append(position)
        elif kind == "delete" and mode is UPSERT:
            operations.append(delete(key, offset, version=version, partition=partition))
        else:
            operations.append(put(key, f"text {name}", offset, version=version, partition=partition))
    folded = mode.fold(operations)
    decoded = Decoded(
        Submitted(7, Batch(raw, sum(one.size for one in raw), "records"), 0.0),
        records=[one for one in raw if one.position not in rejected],
        operations=folded.operations,
        folded=[one for one in operations if one.position in set(folded.resolved)],
        rejected=frozenset(rejected),
    )
    puts = [one for one in folded.operations if isinstance(one, Put) and kinds[one.position][0] in ("put", "delete")]
    puts = puts[shuffled:] + puts[:shuffled]  # those in flight first
    refusals = [(one, "bad", "bad") for one in folded.operations if kinds[one.position][0] == "refused"]
    deletes = [one for one in folded.operations if isinstance(one, Delete) and kinds[one.position][0] != "refused"]
    deletes += folded_deletes(decoded, {one.key for one, *_ in refusals})
    fallback = {one.key: one for one in folded_deletes(decoded, {one.key for one in puts})}
    plan = WritePlan(
        puts,
        deletes,
        unchanged=len(folded.operations) - len(puts) - len(refusals),
        refused=refusals,
        in_flight=[*(one.key for one in puts), *(one.key for one in deletes)] if mode is UPSERT else (),
        fallback=fallback,
    )
    by_position = {one.position: one for one in raw}
    refused = [Refused(one.key, Rejected(by_position[one.position], "write", "bad", "bad")) for one, *_ in refusals]
    chunks = [[Chunk(0, 0, 1, one.document.text, np.zeros(kinds[one.position][1], dtype=np.int32))] for one in puts]
    reusable: list[Vectors] = [{}] * len(puts)
    return Planned(decoded, plan, refused, chunks, reusable, sizes_of(chunks, reusable))


def parts_of(whole: Planned, sizes: Sequence[int]) -> list[Planned]:
    parts, rest = [], whole
    for size in sizes:
        if (both := cut(rest, size)) is not None:
            part, rest = both
            parts.append(part)
    return [*parts, rest]


@examples(3)
@given(
    st.sampled_from([UPSERT, APPEND]), script, st.integers(0, 5), st.lists(st.integers(5, 40), min_size=1, max_size=8)
)
def test_every_record_is_in_one_part_with_all_that_is_known_of_its_key(
    mode: WriteMode, records: list[tuple[str, int, int, int, int | None]], shuffled: int, sizes: list[int]
) -> None:
    whole = planned(mode, records, shuffled)
    parts = parts_of(whole, sizes)
    decoded = [part.decoded for part in parts]

    # In order, and each once: what the limits count, operations, and what is written.
    assert [one for part in decoded for one in part.records] == whole.decoded.records
    assert [one for part in decoded for one in part.operations] == list(whole.decoded.operations)
    assert [part.submitted.number for part in decoded] == sorted({part.submitted.number for part in decoded})
    for name in ("to_embed", "deletes", "advances", "refused", "in_flight"):
        values = [one for part in parts for one in getattr(part.plan, name)]
        assert sorted(values, key=str) == sorted(getattr(whole.plan, name), key=str), name
    assert {key: one for part in parts for key, one in part.plan.fallback.items()} == whole.plan.fallback
    assert sum(part.plan.unchanged for part in parts) == whole.plan.unchanged
    assert sum(part.tokens for part in parts) == whole.tokens
    documents = {id(document): one for one, document in zip(whole.plan.to_embed, whole.chunks, strict=True)}
    for part in parts:
        assert [documents[id(document)] for document in part.chunks] == list(part.plan.to_embed)

    # Each part is whole in itself: a later stage finds there what it needs.
    everywhere = sorted(one.position for part in decoded for one in part.submitted.batch.records)
    assert everywhere == sorted(one.position for one in whole.decoded.submitted.batch.records)
    for part in parts:
        own = {one.position for one in part.decoded.submitted.batch.records}
        operations = (*part.decoded.operations, *part.decoded.folded, *part.plan.deletes, *part.plan.fallback.values())
        assert {one.position for one in operations} <= own
        assert {entry.rejected.position for entry in part.refused} <= own
        assert part.decoded.rejected <= own
        assert part.decoded.submitted.batch.size == sum(one.size for one in part.decoded.submitted.batch.records)
        if mode is UPSERT:
            keys = {one.key for one in part.decoded.operations}
            assert {one.key for one in part.decoded.folded} <= keys
            assert set(part.plan.in_flight) | set(part.plan.fallback) <= keys


@given(script, st.lists(st.integers(5, 40), min_size=1, max_size=8))
def test_the_registry_counts_the_parts_as_it_counted_the_batch(
    records: list[tuple[str, int, int, int, int | None]], sizes: list[int]
) -> None:
    batches = BatchesInFlight()
    whole = planned(UPSERT, records, 0)
    batch = whole.decoded.submitted.batch
    for _ in range(6):
        batches.next_number()
    assert batches.open(batch.records, batch.size) == whole.decoded.submitted.number
    last = batches.last_number
    rest = whole
    numbers = []
    for size in sizes:
        if (both := cut(rest, size)) is not None:
            of_parts = [part.decoded.submitted for part in both]
            batches.cut(rest.decoded.submitted.number, {part.number: part.batch.records for part in of_parts})
            numbers.append(of_parts[0].number)
            rest = both[1]
    numbers.append(rest.decoded.submitted.number)
    assert numbers[-1] <= last, "a revocation of the batch holds for all of its parts"
    assert (batches.size, batches.last_number) == (batch.size, last)
    for number in numbers:
        assert not batches.idle
        batches.acknowledge(number)
    assert (batches.idle, batches.size) == (True, 0)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=60), st.integers(20, 200))
def test_the_parts_of_a_batch_are_of_nearly_one_size(texts: list[int], size: int) -> None:
    records = [("put", place, 0, tokens, None) for place, tokens in enumerate(texts)]
    whole = planned(APPEND, records, 0)
    parts = parts_of(whole, [size] * len(texts))
    assert all(part.tokens <= WHOLE * size + 20 for part in parts)
    assert len(parts) == 1 or all(part.tokens >= size / 2 - 20 for part in parts)
