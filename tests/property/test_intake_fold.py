"""Folding a batch gives what applying its operations one after another would have left."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.intake import fold
from pipeline.records import Delete, Put
from tests.support.documents import delete, put

Step = tuple[str, str | None, bool, int | None]
versions = st.none() | st.integers(-3, 3)
steps = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, "t"]), st.booleans(), versions), max_size=30)


def _operations(script: list[Step]) -> list[Put | Delete]:
    return [
        delete(doc_id, offset, tenant=tenant, version=version)
        if gone
        else put(doc_id, "x", offset, tenant=tenant, version=version)
        for offset, (doc_id, tenant, gone, version) in enumerate(script)
    ]


@given(steps)
def test_every_position_is_kept_or_resolved_once_and_every_key_kept_once_in_order(script: list[Step]) -> None:
    operations = _operations(script)
    folded = fold(operations)
    positions = [operation.position for operation in folded.operations]
    assert sorted([*positions, *folded.resolved]) == [operation.position for operation in operations]
    assert positions == sorted(positions)
    assert sorted(map(str, {o.key for o in operations})) == sorted(str(o.key) for o in folded.operations)


@given(steps)
def test_without_versions_the_last_write_wins(script: list[Step]) -> None:
    operations = _operations([(doc_id, tenant, gone, None) for doc_id, tenant, gone, _ in script])
    assert {o.key: o for o in fold(operations).operations} == {o.key: o for o in operations}


@given(steps)
def test_with_versions_the_highest_wins_and_the_last_of_equal_ones(script: list[Step]) -> None:
    operations = _operations([(doc_id, tenant, gone, version or 0) for doc_id, tenant, gone, version in script])
    winners = {o.key: o for o in sorted(operations, key=lambda o: (o.version, o.position.offset))}
    assert {o.key: o for o in fold(operations).operations} == winners


@given(steps, st.integers(0, 30))
def test_where_a_batch_is_cut_makes_no_difference(script: list[Step], cut: int) -> None:
    operations = _operations(script)
    earlier = fold(operations[:cut]).operations
    assert fold([*earlier, *operations[cut:]]).operations == fold(operations).operations
