from pipeline.ingest import CommitQueue
from pipeline.records import Position, Receipt


def receipt(offset: int) -> Receipt:
    return Receipt([Position("t", 0, offset)])


def test_receipts_are_taken_once_in_the_order_they_were_put() -> None:
    queue = CommitQueue()
    queue.put(receipt(1))
    queue.put_all([receipt(2), receipt(3)])
    assert list(queue.take()) == [receipt(1), receipt(2), receipt(3)]
    assert list(queue.take()) == []


def test_a_receipt_put_while_others_are_taken_is_taken_too() -> None:
    queue = CommitQueue()
    queue.put(receipt(1))
    taken = queue.take()
    assert next(taken) == receipt(1)
    queue.put(receipt(2))
    assert list(taken) == [receipt(2)]
