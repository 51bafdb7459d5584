"""Audits on real Kafka and Milvus: nothing is found where nothing is wrong, every damage by its name, and repaired."""

import json
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from pymilvus import MilvusClient

from consumers.cli import audit as command
from tests.support.names import unique
from tests.support.oracle.observed import read_all, stored_documents
from tests.support.oracle.stored import Verdict, expected, judge_documents
from tests.support.processes import running
from tests.support.rigs.load import Load, Sent
from tests.support.rigs.site import Site, topics, write_config
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers
RECORDS, PARTITIONS, DIMENSION = 250, 2, 16
STEP_MS = 1_000
BASE_MS = time.time_ns() // 1_000_000_000 * 1_000 - RECORDS * STEP_MS
"""Kafka timestamp of the first record; the others follow a second apart."""
OTHER = "d20260101"
"""A Milvus partition that no document belongs to."""
Row = dict[str, Any]


@dataclass(frozen=True)
class AuditSite(Site):
    """A topic that has been ingested to its end, and what damages it."""

    client: MilvusClient
    sent: list[Sent]

    def audit(self, *times: str, repair: bool = False, limit: int = 1000) -> dict[str, Any]:
        """What the command would print as JSON, without the seconds that a process takes to start."""
        report = command.run(self.settings(), *(times or (None, None)), repair=repair, limit=limit)
        assert command.exit_code(report) == (0 if report.clean else 5)
        found: dict[str, Any] = json.loads(json.dumps(report.as_dict()))
        return found

    def rows(self) -> dict[str, dict[str, list[Row]]]:
        """doc_id -> Milvus partition -> rows whole, vectors too."""
        found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for partition in self.client.list_partitions(self.name):
            for row in self.client.query(
                self.name,
                filter='id >= ""',
                output_fields=["*"],
                partition_names=[partition],
                consistency_level="Strong",
            ):
                row["vector"] = np.asarray(row["vector"], dtype=np.float32)
                found[row["doc_id"]][partition].append(dict(row))
        return found

    def ledger(self, doc_id: str) -> Row:
        rows = self.client.query(
            f"{self.name}__ledger",
            filter=f"doc_id == {json.dumps(doc_id, ensure_ascii=False)}",
            output_fields=["*"],
            consistency_level="Strong",
        )
        (row,) = rows
        return dict(row)

    def differences(self) -> dict[str, list[str]]:
        verdict = Verdict()
        judge_documents(expected(read_all(self.kafka, self.name)), stored_documents(self.client, self.name), verdict)
        return verdict.found


def kinds(report: Mapping[str, Any]) -> dict[str, set[str]]:
    """Document -> what was found."""
    found: dict[str, set[str]] = defaultdict(set)
    for finding in report["findings"]:
        found[finding["doc_id"]].add(finding["kind"])
    return dict(found)


@contextmanager
def site(
    folder: Path, kafka: str, milvus: str, sent: list[Sent], **sections: Mapping[str, Any] | str
) -> Iterator[AuditSite]:
    name = unique("audit")
    config = write_config(
        folder / "config.yaml",
        name,
        kafka,
        milvus,
        {
            "chunking": {"max_tokens": 48, "overlap": 8},
            "embedding": {"model": f"hash:{DIMENSION}"},
            "batch": {"max_records": 100},
            **sections,
        },
    )
    with closing(MilvusClient(milvus)) as client:
        made = AuditSite(name, config, kafka, milvus, client, sent)
        with topics(made, PARTITIONS):
            produce(made, sent)
            yield made


def produce(made: AuditSite, records: Sequence[Sent]) -> None:
    producer = Producer({"bootstrap.servers": made.kafka, "linger.ms": 5})
    for number, record in enumerate(records):
        producer.produce(
            made.name, record.value, record.key, headers=record.headers, timestamp=BASE_MS + number * STEP_MS
        )
    assert producer.flush(30) == 0


@pytest.fixture(scope="module")
def live(kafka_bootstrap: str, milvus_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditSite]:
    folder = tmp_path_factory.mktemp("audit")
    with site(folder, kafka_bootstrap, milvus_uri, Load(7, PARTITIONS).next_records(RECORDS)) as made:
        made.command("ingest", "--until-caught-up")
        yield made


def sent_positions(made: AuditSite) -> list[tuple[int, int]]:
    """Kafka partition and offset of every record, in the order they were produced."""
    messages = sorted(read_all(made.kafka, made.name), key=lambda message: message.timestamp()[1])
    return [(message.partition() or 0, message.offset() or 0) for message in messages]


def span(first: int, last: int) -> tuple[str, str]:
    at = [datetime.fromtimestamp((BASE_MS + number * STEP_MS) / 1000, UTC).isoformat() for number in (first, last)]
    return at[0], at[1]


def test_nothing_is_wrong_after_ingest(live: AuditSite) -> None:
    report = live.audit()
    wanted = expected(read_all(live.kafka, live.name))
    assert report["clean"] is True
    assert report["findings"] == []
    assert report["records"] == RECORDS
    assert report["rejected"] == report["dead_letters"] == len(wanted.poison) > 0
    stored = live.rows()
    assert report["rows"] == sum(len(rows) for places in stored.values() for rows in places.values())
    assert report["documents"] == {"sound": report["ledger_rows"], "problem": 0}
    assert report["ledger_rows"] > len(wanted.documents) > 40, "deleted documents have a ledger row, too"
    again = live.command("audit", "--json")
    assert json.loads(again.stdout)["clean"] is True


class Damage:
    """Damages documents behind the pipeline's back, each in a way of its own, and remembers what has to be found."""

    def __init__(self, made: AuditSite) -> None:
        self.site = made
        self.stored = made.rows()
        self.expected: dict[str, set[str]] = {}
        wanted = expected(read_all(made.kafka, made.name))
        self._single = [name for name in wanted.documents if self._chunks(name) == 1]
        self._several = [name for name in wanted.documents if self._chunks(name) >= 3]
        self.deleted = sorted(wanted.versions.keys() - wanted.documents.keys())

    def _chunks(self, doc_id: str) -> int:
        return sum(len(rows) for rows in self.stored[doc_id].values())

    def one(self, *found: str, several: bool = False) -> tuple[str, str, list[Row]]:
        """A document not yet damaged: its id, its Milvus partition, its rows; `found` is what the audit must say."""
        doc_id = (self._several if several else self._single).pop()
        self.expected[doc_id] = set(found)
        ((partition, rows),) = self.stored[doc_id].items()
        return doc_id, partition, sorted(rows, key=lambda row: int(row["chunk"]))

    def all(self) -> None:
        client, name = self.site.client, self.site.name
        client.create_partition(name, OTHER)
        _, place, rows = self.one("missing")
        client.delete(name, ids=[rows[0]["id"]], partition_name=place)
        _, place, rows = self.one("incomplete", several=True)
        client.delete(name, ids=[rows[1]["id"]], partition_name=place)
        # The same id in two Milvus partitions, and the row of an earlier place with the id it had there.
        _, _, rows = self.one("duplicated", "misplaced")
        client.insert(name, [rows[0]], partition_name=OTHER)
        doc_id, _, rows = self.one("duplicated", "misplaced")
        client.insert(name, [rows[0] | {"id": own_id(doc_id, 0, OTHER)}], partition_name=OTHER)
        _, place, rows = self.one("duplicated")
        client.insert(name, [rows[0], rows[0]], partition_name=place)
        for change in ({"text": "an older text"}, {"number": -1}):
            _, place, rows = self.one("stale", several=True)
            client.upsert(name, [rows[1] | change | {"kafka_offset": 0}], partition_name=place)
        _, place, rows = self.one("stale", several=True)
        client.upsert(name, [rows[0] | {"kafka_offset": rows[0]["kafka_offset"] - 1}], partition_name=place)
        doc_id, place, rows = self.one("incomplete", several=True)
        more = len(rows)
        client.insert(name, [rows[0] | {"id": own_id(doc_id, more, place), "chunk": more}], partition_name=place)
        doc_id, _, _ = self.one("ledger")
        client.delete(f"{name}__ledger", ids=[self.site.ledger(doc_id)["id"]])
        for found, changed in (
            ("pending", {"pending": True}),
            ("ledger", {"footprint": '{"d20260101":2}'}),
            ("ledger", {"kafka_offset": 0}),
            ("ledger", {"row_hash": "0" * 32}),
        ):
            doc_id, _, _ = self.one(found)
            client.upsert(f"{name}__ledger", [self.site.ledger(doc_id) | changed])
        gone = self.deleted[0]
        self.expected[gone] = {"extra"}
        _, place, rows = self.one()
        del self.expected[rows[0]["doc_id"]]
        back = rows[0] | {"id": own_id(gone, 0, place), "doc_id": gone}
        client.insert(name, [back], partition_name=place)


def own_id(doc_id: str, chunk: int, partition: str) -> str:
    from pipeline.store.writing.rows import row_id

    return row_id(None, doc_id, chunk, partition)


def test_every_damage_is_found_by_its_name_and_repaired(live: AuditSite, tmp_path: Path) -> None:
    damage = Damage(live)
    with running(live.arguments("ingest"), tmp_path / "live.log") as worker:
        eventually(lambda: "kafka.assigned" in worker.errors(), within=60, what="the live worker")
        damage.all()
        report = live.audit()
        assert kinds(report) == damage.expected
        refused = live.command("audit", "--repair", code=2)
        assert "Stop the workers, repair, start them again" in refused.stderr
        assert worker.end(signal.SIGTERM) == 0
    assert report["documents"]["problem"] == len(damage.expected)
    assert report["kinds"]["pending"] == 1
    assert not report["truncated"]
    assert all(found["topic"] == live.name and found["what"] and found["repairable"] for found in report["findings"])
    shown = live.command("audit", "--limit", "2", code=5).stdout
    assert "findings: misplaced" in shown
    assert f"... and {sum(report['kinds'].values()) - 2} more" in shown
    repaired = live.audit(repair=True)
    assert (repaired["repaired"], repaired["clean"], repaired["refused"]) == (len(damage.expected), True, {})
    assert live.audit()["clean"] is True
    assert live.differences() == {}


def test_rows_of_others_are_reported_and_never_deleted(live: AuditSite) -> None:
    rows = live.rows()
    ((partition, (row, *_)),) = next(iter(rows.values())).items()
    live.client.insert(live.name, [row | {"id": "not-one-of-ours"}], partition_name=partition)
    try:
        report = live.audit(repair=True, limit=1)
        assert [(each["kind"], each["repairable"]) for each in report["findings"]] == [("extra", False)]
        assert report["refused"] == {"not_repairable": 1}
        assert sum(each["id"] == "not-one-of-ours" for each in live.rows()[row["doc_id"]][partition]) == 1
    finally:
        live.client.delete(live.name, ids=["not-one-of-ours"])


def test_a_range_compares_the_documents_whose_newest_record_is_in_it(live: AuditSite) -> None:
    numbers = {at: number for number, at in enumerate(sent_positions(live))}
    versions = expected(read_all(live.kafka, live.name)).versions
    newest = [numbers[history.newest.place[1:]] for history in versions.values()]
    inside = [number for number in newest if 100 <= number < 200]
    report = live.audit(*span(100, 200))
    assert report["documents"] == {"sound": len(inside), "problem": 0}
    assert report["from"].startswith("2026-11-")


@pytest.mark.parametrize(
    ("options", "code", "problem"),
    [
        (("--from", "2026-11-22", "--to", "2026-11-22"), 2, "is empty"),
        (("--from", "2026-11-22"), 2, "--from and --to belong together"),
        (("--set", "kafka.group_id=nobody"), 2, "group nobody has committed nothing"),
        (("--set", "milvus.uri=http://127.0.0.1:9"), 3, "does not answer"),
        (("--set", "embedding.model=hash:8"), 4, "holds vectors of another model"),
    ],
)
def test_what_cannot_be_audited_says_why(live: AuditSite, options: tuple[str, ...], code: int, problem: str) -> None:
    done = live.command("audit", *options, code=code)
    assert problem in done.stderr
    assert done.stdout == ""


def test_append_mode(kafka_bootstrap: str, milvus_uri: str, tmp_path: Path) -> None:
    bodies = [{"text": f"entry {n} " + "word " * (60 * (n % 3)), "event_time": "2026-11-20", "n": n} for n in range(40)]
    sent = [Sent(None, json.dumps(body).encode()) for body in bodies] + [Sent(b"k", None)]
    with site(tmp_path, kafka_bootstrap, milvus_uri, sent, mode="append") as made:
        made.command("ingest", "--until-caught-up")
        report = made.audit()
        assert (report["records"], report["rejected"], report["clean"]) == (41, 1, True)
        assert report["documents"] == {"sound": 40, "problem": 0}
        stored = sorted((rows for places in made.rows().values() for rows in places.values()), key=len)
        made.client.create_partition(made.name, OTHER)
        lost, copied = stored[0][0], stored[1][0]
        made.client.delete(made.name, ids=[lost["id"]], partition_name="d20261120")
        made.client.insert(made.name, [copied], partition_name=OTHER)
        found = made.audit()
        assert kinds(found) == {lost["doc_id"]: {"missing"}, copied["doc_id"]: {"duplicated", "misplaced"}}
        assert made.audit(repair=True)["repaired"] == 2
        assert made.audit()["clean"] is True
        again = sorted((rows for places in made.rows().values() for rows in places.values()), key=len)
        assert [len(rows) for rows in again] == [len(rows) for rows in stored]
