"""One operation a key."""

from pipeline.intake import Folded, fold
from pipeline.order import compare, rank_of
from pipeline.records import Delete, Put
from tests.support.documents import delete, put


def test_the_last_of_each_key_stays_where_it_arrived() -> None:
    first, other, second = put("a", "x", 0), put("b", "y", 1), put("a", "z", 2)
    assert fold([first, other, second]) == Folded((other, second), (first.position,))


def test_an_older_version_arriving_later_does_not_win() -> None:
    new, old = put("a", "new", 0, version=5), put("a", "old", 1, version=4)
    assert fold([new, old]) == Folded((new,), (old.position,))
    late = delete("a", 2, version=4)
    assert fold([new, late]) == Folded((new,), (late.position,))


def test_of_equal_versions_and_where_one_has_none_the_higher_offset_wins() -> None:
    for before, after in [(5, 5), (5, None), (None, 5), (None, None)]:
        first, second = put("a", "x", 0, version=before), delete("a", 1, version=after)
        assert [operation.position for operation in fold([first, second]).operations] == [second.position]
        assert fold([first, second]).resolved == (first.position,)


def test_a_record_without_version_separates_the_versions_before_and_after_it_although_it_is_folded_away() -> None:
    (folded,) = fold([delete("a", 1), put("a", "again", 2, version=3)]).operations
    before = rank_of(put("a", "old", 0, version=9))
    assert compare(before, rank_of(put("a", "again", 2, version=3))).order < 0
    assert compare(before, rank_of(folded)).order > 0


def test_tenants_have_documents_of_their_own() -> None:
    operations: list[Put | Delete] = [put("a", "x", 0), put("a", "y", 1, tenant="t"), delete("a", 2, tenant="u")]
    assert fold(operations) == Folded(tuple(operations), ())


def test_an_empty_batch() -> None:
    nothing: list[Delete] = []
    assert fold(nothing) == Folded((), ())
