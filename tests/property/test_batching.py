from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.queues.batching import Batch, BatchBuilder, BatchPolicy
from pipeline.records import SourceRecord
from tests.support.documents import source_record

steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(0, 60), max_size=12)),
        st.tuples(st.just("wait"), st.floats(0.0, 2.0)),
    ),
    max_size=30,
)

policies = st.builds(
    BatchPolicy, max_records=st.integers(1, 8), max_bytes=st.integers(1, 100), max_wait_s=st.floats(0.01, 1.5)
)


def _record(offset: int, size: int) -> SourceRecord:
    return source_record(b"x" * size, None, at=("t", offset % 3, offset))


@given(policies, steps)
def test_every_record_leaves_once_in_order_within_the_limits_and_in_time(
    policy: BatchPolicy, script: list[tuple[str, object]]
) -> None:
    builder = BatchBuilder(policy)
    now, offset = 0.0, 0
    batches: list[Batch] = []

    for action, argument in script:
        if action == "wait":
            assert isinstance(argument, float)
            now += argument
        else:
            assert isinstance(argument, list)
            records = [_record(offset + i, size) for i, size in enumerate(argument)]
            offset += len(records)
            batches += builder.add(records, now)
        for batch in builder.close_due(now):
            batches.append(batch)
        due = builder.due_in(now)
        assert due is None or 0 < due <= policy.max_wait_s + 1e-9
        assert builder.size <= max(policy.max_bytes, 60)
    batches += builder.close()

    out = [record.position.offset for batch in batches for record in batch.records]
    assert out == list(range(offset))
    for batch in batches:
        assert 1 <= len(batch.records) <= policy.max_records
        assert batch.size == sum(record.size for record in batch.records)
        assert batch.size <= policy.max_bytes or len(batch.records) == 1
        if batch.trigger == "records":
            assert len(batch.records) == policy.max_records
    assert builder.due_in(now) is None


@given(st.lists(st.integers(0, 20), max_size=20), st.sets(st.integers(0, 2)))
def test_discard_forgets_only_the_partitions_named(sizes: list[int], gone: set[int]) -> None:
    builder = BatchBuilder(BatchPolicy(1000, 10_000, 1.0))
    list(builder.add([_record(offset, size) for offset, size in enumerate(sizes)], 0.0))
    builder.discard({("t", number) for number in gone})
    kept = [record for batch in builder.close() for record in batch.records]
    assert [r.position.offset for r in kept] == [o for o in range(len(sizes)) if o % 3 not in gone]
