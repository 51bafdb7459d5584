"""Everything in which what is stored at rest differs from what must be, recomputed from the raw topics.

Shares no code with the product: it knows the public contract (docs/architecture.md) and nothing else. Good and bad
records are distinguished by the header that the load gives them, not by decoding them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from confluent_kafka import Message
from pymilvus import MilvusClient

from tests.support.oracle.contract import Contract, Scope
from tests.support.oracle.expected import Expected, History, belongs, expected, mismatch
from tests.support.oracle.observed import (
    CONNECT,
    Row,
    Stored,
    committed_and_end,
    dead_letter_origins,
    headers_of,
    place_of,
    read_all,
    stored_documents,
    stored_ledger,
)
from tests.support.oracle.verdict import Verdict

__all__ = ["Contract", "Scope", "Verdict", "expected", "judge", "judge_documents", "read_scope"]


def read_scope(scope: Scope) -> Expected:
    """What the topics of a group require."""
    records = [record for topic in scope.topics for record in read_all(scope.bootstrap, topic)]
    return expected(records, scope.contract)


def judge(scope: Scope, client: MilvusClient) -> Verdict:
    """Compare everything, at rest: the group has read the topics to their ends and nobody writes."""
    wanted = read_scope(scope)
    stored = stored_documents(client, scope.collection, append=scope.contract.append)
    verdict = Verdict(len(wanted.documents), stored.rows, len(wanted.poison))
    judge_documents(wanted, stored, verdict, dimension=scope.contract.dimension)
    if not scope.contract.append:
        _judge_ledger(wanted, stored, stored_ledger(client, scope.collection), verdict)
    _judge_dead_letters(wanted, read_all(scope.bootstrap, scope.dead_letter_topic), verdict)
    for topic in scope.topics:
        for number, (committed, end) in committed_and_end(scope.bootstrap, scope.group, topic).items():
            if max(committed, 0) != end:
                verdict.offsets_behind.append(f"{topic}/{number}: committed {committed}, end {end}")
    verdict.set_apart(wanted.shared)
    return verdict


def judge_documents(wanted: Expected, stored: Stored, verdict: Verdict, *, dimension: int | None = None) -> Verdict:
    """Compare the rows with what they must be; into `verdict`."""
    documents = wanted.documents
    verdict.lost += sorted(documents.keys() - stored.documents.keys())
    verdict.resurrected += sorted(stored.documents.keys() - documents.keys())
    ids: Counter[str] = Counter()
    for name, placed in stored.documents.items():
        rows = [row for _, row in placed]
        ids.update(row["id"] for row in rows)
        chunks = Counter(row["chunk"] for row in rows)
        verdict.duplicates += [f"{name}: chunk {number} {n} times" for number, n in chunks.items() if n > 1]
        verdict.misplaced += [
            f"{name}: in {partition}, event time {row['event_time']}"
            for partition, row in placed
            if not belongs(partition, row["event_time"])
        ]
        document = documents.get(name)
        if document is not None and (problem := mismatch(document, rows, dimension)):
            verdict.stale.append(f"{name} (newest at {_at(wanted.versions[name])}): {problem}")
    verdict.duplicates += [f"id {each} {n} times" for each, n in ids.items() if n > 1]
    if stored.counted != len(ids):
        verdict.duplicates.append(f"the server counts {stored.counted} rows, {len(ids)} ids can be read")
    return verdict


def _at(history: History) -> str:
    return "/".join(map(str, history.newest.place))


def _judge_ledger(wanted: Expected, stored: Stored, ledger: Mapping[str, Row], verdict: Verdict) -> None:
    for name, history in wanted.versions.items():
        row, newest = ledger.get(name), history.newest
        if newest.document is None:
            if row is not None and (row["state"] != "deleted" or row["pending"] or row["footprint"]):
                verdict.ledger_wrong.append(f"{name}, deleted at {_at(history)}: {row}")
            continue
        should = {
            "state": "live",
            "footprint": dict(Counter(partition for partition, _ in stored.documents.get(name, ()))),
            "pending": False,
        }
        places = [each.place for each in history.last]
        if row is not None and row["pending"] and place_of(row) in places:
            verdict.pending.append(name)
        elif row is None or {column: row[column] for column in should} != should or place_of(row) not in places:
            verdict.ledger_wrong.append(f"{name}: {row}, not {should} of {places}")
    verdict.ledger_wrong += [f"never produced: {ledger[name]}" for name in ledger.keys() - wanted.versions.keys()]


def _judge_dead_letters(wanted: Expected, letters: Sequence[Message], verdict: Verdict) -> None:
    found = dead_letter_origins(letters)
    verdict.dead_letters_sent += len(letters)
    for place, letter in found.items():
        name = "/".join(map(str, place))
        headers, poison = headers_of(letter), wanted.poison.get(place)
        if poison is None:
            why = headers.get(f"{CONNECT}exception.message")
            verdict.dead_letters_wrong.append(f"{name} is good: {why!r}")
        elif (letter.key(), letter.value()) != (poison.key(), poison.value()):
            verdict.dead_letters_wrong.append(f"{name}: other bytes")
        elif not headers_of(poison).items() <= headers.items():
            verdict.dead_letters_wrong.append(f"{name}: without the record's headers")
        elif not headers.get(f"{CONNECT}exception.message"):
            verdict.dead_letters_wrong.append(f"{name}: without a reason")
    missing = sorted(wanted.poison.keys() - found.keys())
    verdict.dead_letters_missing += ["/".join(map(str, place)) for place in missing]
