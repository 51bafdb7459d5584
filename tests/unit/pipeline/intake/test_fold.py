"""One operation a key."""

from dataclasses import replace

from pipeline.intake import Folded, fold
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


def test_of_equal_versions_and_where_one_has_none_the_later_arrival_wins() -> None:
    for before, after in [(5, 5), (5, None), (None, 5), (None, None)]:
        first, second = put("a", "x", 0, version=before), delete("a", 1, version=after)
        kept = replace(second, by_arrival=(before is None) != (after is None))
        assert fold([first, second]) == Folded((kept,), (first.position,))


def test_tenants_have_documents_of_their_own() -> None:
    operations: list[Put | Delete] = [put("a", "x", 0), put("a", "y", 1, tenant="t"), delete("a", 2, tenant="u")]
    assert fold(operations) == Folded(tuple(operations), ())


def test_an_empty_batch() -> None:
    nothing: list[Delete] = []
    assert fold(nothing) == Folded((), ())
