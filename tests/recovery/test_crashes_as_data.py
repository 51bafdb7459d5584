"""What remains after a crash at each point, as data: records, crashes between them, and the rows in the end."""

import re
from pathlib import Path

import pytest

from tests.support.rigs.crash_script import (
    BATCH,
    CRASH,
    LATER,
    REBALANCE,
    Record,
    Step,
    aging,
    broken,
    delete,
    long,
    others,
    put,
    rows,
    run,
)

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"retry_sent", "retry_logged", "retry_committed", "rekey_sent", "rekey_offsets_sent", "rekey_committed"}
"""Points inside a transaction of Kafka, which the broker in memory lacks: tests/integration/test_dlq_retry.py and
tests/integration/test_rekey.py."""

FULL = others(BATCH - 1)
"""With one more record they are a batch of their own, so that what comes after is decided by a later one."""

# Script -> records whose rows remain.
UPSERT: dict[str, tuple[list[Step], list[Record]]] = {
    "nothing is stored yet": ([put("a"), CRASH("polled"), put("b")], [put("a"), put("b")]),
    "what is stored is known": ([put("a"), CRASH("ledger_read"), put("b")], [put("a"), put("b")]),
    "vectors are made and not written": ([put("a"), put("b"), CRASH("embedded")], [put("a"), put("b")]),
    "a Milvus partition is there and empty": ([put("a"), CRASH("partition_created")], [put("a")]),
    "the first of two Milvus partitions is there": (
        [put("a"), put("b", days_ago=1), CRASH("partition_created", 2)],
        [put("a"), put("b", days_ago=1)],
    ),
    "no intent is written": ([put("a"), put("b"), CRASH("intent_unwritten"), put("c")], [put("a"), put("b"), put("c")]),
    "intents are written, rows are not": ([put("a"), CRASH("intent_written"), put("c")], [put("a"), put("c")]),
    "rows are written, the ledger is not": (
        [put("a"), put("b"), CRASH("rows_written"), put("c")],
        [put("a"), put("b"), put("c")],
    ),
    "the ledger is final, nothing is acknowledged": ([put("a"), CRASH("ledger_final"), put("c")], [put("a"), put("c")]),
    "acknowledged, not committed": ([put("a"), CRASH("acked"), put("c")], [put("a"), put("c")]),
    "before the commit": ([put("a"), CRASH("uncommitted"), put("c")], [put("a"), put("c")]),
    "after the commit": ([put("a"), CRASH("committed"), put("c")], [put("a"), put("c")]),
    "one request of a batch is written": (
        [put("a", long("a")), CRASH("request_acked"), put("b")],
        [put("a", long("a")), put("b")],
    ),
    # --- a document changes --------------------------------------------------------------------------------------
    "a new text is an intent": (
        [put("a", "one"), *FULL, put("a", "two"), CRASH("intent_written", 2)],
        [put("a", "two"), *FULL],
    ),
    "a new text is written": (
        [put("a", "one"), *FULL, put("a", "two"), CRASH("rows_written", 2)],
        [put("a", "two"), *FULL],
    ),
    "the second of three versions is written when the third is published": (
        [put("a", "one"), *FULL, put("a", "two"), CRASH("rows_written", 2), put("a", "three")],
        [put("a", "three"), *FULL],
    ),
    "fewer chunks are written, the surplus is there": (
        [put("a", long("a")), *FULL, put("a", "short"), CRASH("rows_written", 2)],
        [put("a", "short"), *FULL],
    ),
    "the surplus is gone, the ledger does not know": (
        [put("a", long("a")), *FULL, put("a", "short"), CRASH("surplus_deleted", 2)],
        [put("a", "short"), *FULL],
    ),
    "more chunks after fewer, half-way each time": (
        [
            put("a", long("a")),
            *FULL,
            put("a", "short"),
            CRASH("rows_written", 2),
            put("a", long("b", 90)),
            CRASH("intent_written"),
        ],
        [put("a", long("b", 90)), *FULL],
    ),
    "the same again": (
        [put("a", "one"), CRASH("committed"), put("a", "one"), CRASH("ledger_read"), put("a", "one")],
        [put("a", "one")],
    ),
    # --- deletes -------------------------------------------------------------------------------------------------
    "a delete is an intent": ([put("a"), *FULL, delete("a"), CRASH("intent_written", 2)], FULL),
    "a delete is done, the ledger does not know": ([put("a"), *FULL, delete("a"), CRASH("surplus_deleted", 2)], FULL),
    "a delete is final, not committed": ([put("a"), *FULL, delete("a"), CRASH("ledger_final", 2)], FULL),
    "a document created again after a half-done delete": (
        [put("a", long("a")), *FULL, delete("a"), CRASH("surplus_deleted", 2), put("a", "again")],
        [put("a", "again"), *FULL],
    ),
    "a delete of what never was": ([delete("a"), put("b"), CRASH("rows_written")], [put("b")]),
    # --- moves between Milvus partitions -------------------------------------------------------------------------
    "a move is an intent": (
        [put("a"), *FULL, put("a", days_ago=1), CRASH("intent_written", 2)],
        [put("a", days_ago=1), *FULL],
    ),
    "a move is in both Milvus partitions": (
        [put("a"), *FULL, put("a", days_ago=1), CRASH("rows_written", 2)],
        [put("a", days_ago=1), *FULL],
    ),
    "a move and back, half-way each time": (
        [put("a"), *FULL, put("a", days_ago=1), CRASH("rows_written", 2), put("a"), CRASH("rows_written")],
        [put("a"), *FULL],
    ),
    "three places, half-way each time": (
        [
            put("a"),
            CRASH("rows_written"),
            put("a", days_ago=1),
            CRASH("rows_written"),
            put("a", days_ago=2),
            CRASH("rows_written"),
        ],
        [put("a", days_ago=2)],
    ),
    "a move to another day, then deleted": (
        [put("a"), *FULL, put("a", days_ago=1), CRASH("surplus_deleted", 2), delete("a")],
        FULL,
    ),
    # --- stale versions and folds --------------------------------------------------------------------------------
    "an older version is read again after the newer one is final": (
        [put("a", "one"), *FULL, put("a", "two"), *others(BATCH - 1, "more"), CRASH("ledger_final", 2)],
        [put("a", "two"), *FULL, *others(BATCH - 1, "more")],
    ),
    "an older version is read again after a delete": (
        [put("a", "one"), *FULL, delete("a"), CRASH("uncommitted")],
        FULL,
    ),
    "records of one key are folded": (
        [put("a", "one"), put("a", "two"), put("a", "three"), CRASH("rows_written")],
        [put("a", "three")],
    ),
    "a fold that ends in a delete": ([put("a"), delete("a"), put("b"), CRASH("intent_unwritten")], [put("b")]),
    "a fold that ends in a new document": (
        [put("a", "one"), *FULL, delete("a"), put("a", "two"), CRASH("surplus_deleted", 2)],
        [put("a", "two"), *FULL],
    ),
    # --- crash upon crash ----------------------------------------------------------------------------------------
    "at every step of one batch": (
        [
            put("a", long("a")),
            *(
                CRASH(point)
                for point in (
                    "intent_unwritten",
                    "intent_written",
                    "rows_written",
                    "ledger_final",
                    "acked",
                    "uncommitted",
                )
            ),
        ],
        [put("a", long("a"))],
    ),
    "in each of three batches": (
        [
            *others(BATCH, "x"),
            CRASH("rows_written"),
            *others(BATCH, "y"),
            CRASH("rows_written", 2),
            *others(BATCH, "z"),
            CRASH("rows_written", 3),
        ],
        [*others(BATCH, "x"), *others(BATCH, "y"), *others(BATCH, "z")],
    ),
    # --- what was begun is rejected by the redo ------------------------------------------------------------------
    "a move is written, its record is too old by the redo": (
        [put("a", "one"), *FULL, aging("a", "two", days_ago=9), CRASH("rows_written", 2), LATER(30)],
        [put("a", "one"), *FULL],
    ),
    "a new text took the rows of the old one, its record is too old by the redo": (
        [
            put("a", long("a"), days_ago=9),
            *FULL,
            aging("a", long("b", 90), days_ago=9),
            CRASH("rows_written", 2),
            LATER(30),
        ],
        [put("a", long("a"), days_ago=9), *FULL],
    ),
    "a new document is written, its record is too old by the redo": (
        [aging("a", "one", days_ago=9), CRASH("rows_written"), LATER(30), put("b")],
        [put("b")],
    ),
    "a deleted document is created again, its record is too old by the redo": (
        [
            put("a"),
            *FULL,
            delete("a"),
            *others(BATCH - 1, "more"),
            aging("a", "two", days_ago=9),
            CRASH("rows_written", 3),
            LATER(30),
        ],
        [*FULL, *others(BATCH - 1, "more")],
    ),
    "an intent is written, its record is too old by the redo": (
        [put("a", "one"), *FULL, aging("a", "two", days_ago=9), CRASH("intent_written", 2), LATER(30)],
        [put("a", "one"), *FULL],
    ),
    "the redo rejects the record, and another record of the document follows in its batch": (
        [put("a", "one"), *FULL, aging("a", "two", days_ago=9), CRASH("rows_written", 2), LATER(30), put("a", "three")],
        [put("a", "three"), *FULL],
    ),
    "the redo rejects two records of the document": (
        [
            put("a", "one"),
            *FULL,
            aging("a", "two", days_ago=9),
            CRASH("rows_written", 2),
            aging("a", "three", days_ago=8),
            CRASH("rows_written"),
            LATER(60),
        ],
        [put("a", "one"), *FULL],
    ),
    "a crash in the middle of the restoration": (
        [
            put("a", "one"),
            *FULL,
            aging("a", "two", days_ago=9),
            CRASH("rows_written", 2),
            LATER(30),
            CRASH("rows_written"),
            CRASH("surplus_deleted"),
            CRASH("ledger_final"),
            CRASH("dead_letter_sent"),
        ],
        [put("a", "one"), *FULL],
    ),
    # --- the group changes ---------------------------------------------------------------------------------------
    "a Kafka partition is about to be given up": (
        [put("a"), put("b"), REBALANCE(), CRASH("revoke_begun"), put("a", "two")],
        [put("a", "two"), put("b")],
    ),
    "what was read is written, not committed": (
        [put("a"), put("b"), REBALANCE(), CRASH("revoke_drained"), delete("a")],
        [put("b")],
    ),
    "what was read is committed, the other has not begun": (
        [put("a"), put("b"), REBALANCE(), CRASH("revoke_committed"), put("c")],
        [put("a"), put("b"), put("c")],
    ),
}


@pytest.mark.parametrize("name", UPSERT)
def test_a_crash_in_upsert_mode_leaves_what_was_published_last(name: str) -> None:
    script, remain = UPSERT[name]
    assert run(script).rows == rows(*remain)


FLUSHED: dict[str, tuple[list[Step], list[Record]]] = {
    "a flush has ended, nothing is committed": ([put("a"), CRASH("flushed"), put("b")], [put("a"), put("b")]),
    "before the commit of what is flushed": ([put("a"), CRASH("uncommitted"), put("b")], [put("a"), put("b")]),
    "after the commit of what is flushed": ([put("a"), CRASH("committed"), delete("a")], []),
}


@pytest.mark.parametrize("name", FLUSHED)
def test_a_crash_around_a_flush_leaves_what_was_published_last(name: str) -> None:
    script, remain = FLUSHED[name]
    assert run(script, durability="flush").rows == rows(*remain)


APPEND: dict[str, tuple[list[Step], list[Record]]] = {
    "nothing is stored yet": ([put("a"), CRASH("polled"), put("b")], [put("a"), put("b")]),
    "vectors are made and not written": ([put("a"), CRASH("embedded"), put("b")], [put("a"), put("b")]),
    "a Milvus partition is there and empty": ([put("a"), CRASH("partition_created")], [put("a")]),
    "rows are written, nothing is acknowledged": (
        [put("a", long("a")), put("b"), CRASH("request_acked"), put("c")],
        [put("a", long("a")), put("b"), put("c")],
    ),
    "acknowledged, not committed": ([put("a"), CRASH("acked"), put("b")], [put("a"), put("b")]),
    "before the commit": ([put("a"), CRASH("uncommitted"), put("b")], [put("a"), put("b")]),
    "after the commit": ([put("a"), CRASH("committed"), put("b")], [put("a"), put("b")]),
    "every version is kept, written twice or not": (
        [put("a", "one"), put("a", "two", days_ago=1), CRASH("acked"), put("a", "three"), CRASH("acked")],
        [put("a", "one"), put("a", "two", days_ago=1), put("a", "three")],
    ),
    "the second of several batches": (
        [*others(BATCH, "x"), *others(BATCH, "y"), *others(BATCH, "z"), CRASH("acked", 2)],
        [*others(BATCH, "x"), *others(BATCH, "y"), *others(BATCH, "z")],
    ),
    "a Kafka partition is about to be given up": (
        [put("a"), put("b"), REBALANCE(), CRASH("revoke_begun"), put("c")],
        [put("a"), put("b"), put("c")],
    ),
}


@pytest.mark.parametrize("name", APPEND)
def test_a_crash_in_append_mode_leaves_each_record_once(name: str) -> None:
    script, remain = APPEND[name]
    assert run(script, append=True).rows == rows(*remain)


DEAD_LETTERS: dict[str, tuple[list[Step], list[Record], list[Record]]] = {
    "a dead letter is not sent": ([put("a"), broken("b"), CRASH("dead_letter_unsent")], [put("a")], [broken("b")]),
    "a dead letter is sent, not confirmed": (
        [put("a"), broken("b"), CRASH("dead_letter_sent")],
        [put("a")],
        [broken("b")],
    ),
    "the second of two is not sent": (
        [broken("a"), broken("b"), CRASH("dead_letter_unsent", 2), put("c")],
        [put("c")],
        [broken("a"), broken("b")],
    ),
    "the records beside it are not written": (
        [put("a"), broken("b"), put("c"), CRASH("rows_written")],
        [put("a"), put("c")],
        [broken("b")],
    ),
    "a dead letter and a commit": ([broken("a"), put("b"), CRASH("uncommitted")], [put("b")], [broken("a")]),
    "a broken record of a stored document changes nothing": (
        [put("a", "one"), *FULL, broken("a"), CRASH("dead_letter_sent"), delete("b")],
        [put("a", "one"), *FULL],
        [broken("a")],
    ),
}


@pytest.mark.parametrize("append", [False, True], ids=["upsert", "append"])
@pytest.mark.parametrize("name", DEAD_LETTERS)
def test_a_crash_around_a_dead_letter_loses_neither_it_nor_its_neighbours(name: str, append: bool) -> None:
    script, remain, rejected = DEAD_LETTERS[name]
    if append:
        script = [
            CRASH("request_acked") if step == CRASH("rows_written") else step for step in script if step != delete("b")
        ]
    outcome = run(script, append=append)
    assert outcome.rows == rows(*remain)
    assert outcome.dead_letters == {record.value for record in rejected}


def test_every_point_of_the_code_is_crashed_at() -> None:
    names = {
        name
        for package in ("pipeline", "consumers")
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r'failpoints\.hit\(\s*"(\w+)"', path.read_text())
    }
    scripts = [case[0] for cases in (UPSERT, FLUSHED, APPEND, DEAD_LETTERS) for case in cases.values()]
    assert {step.point for script in scripts for step in script if isinstance(step, CRASH)} == names - ELSEWHERE
