"""What is broken on purpose: each one a mistake that somebody could make, and that would lose or falsify documents."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mutation:
    """One mistake: `old` stands exactly once in `file` and becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Paths or node ids of the tests nearest to it, run first; if they pass, all that need no server are run."""

    def apply(self, root: Path) -> None:
        """Make the mistake in the tree at `root`. Raises ValueError where the text is not found exactly once."""
        path = root / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: its text stands {text.count(self.old)} times in {self.file}, not once")
        path.write_text(text.replace(self.old, self.new))


MACHINE = "tests/property/test_writer_machine.py"

MUTATIONS = (
    Mutation(
        "commit the highest offset",
        "consumers/kafka/offsets.py",
        "        return self.next if lowest is None else lowest\n",
        "        if lowest is None:\n"
        "            return self.next\n"
        "        done = [(run, i) for run in self.runs for i, state in enumerate(run.states) if state == _DONE]\n"
        "        return max([lowest, *(run.first + i + 1 for run, i in done)])\n",
        ("tests/property/test_offsets.py",),
    ),
    Mutation(
        "commit before the flush",
        "pipeline/store/flushing/governor.py",
        'on_durable if policy.durability == "ack" else None',
        "on_durable",
        ("tests/unit/pipeline/store/flushing/test_governor.py",),
    ),
    Mutation(
        "a flush under way counts as one to come",
        "pipeline/store/flushing/shared_marker.py",
        ">= count + 2",
        ">= count + 1",
        ("tests/property/test_flush_together.py",),
    ),
    Mutation(
        "insert instead of upsert",
        "pipeline/store/milvus/client.py",
        "write = self._client.insert if self._server.lite else self._client.upsert",
        "write = self._client.insert",
        ("tests/contract/test_milvus_api.py::test_an_upsert_replaces_within_its_partition[server]",),
    ),
    Mutation(
        "batches written at a time acknowledged in any order",
        "pipeline/ingest/ordered_executor.py",
        "                    before.result()\n",
        "                    before.done()\n",
        ("tests/unit/pipeline/ingest/test_write.py", "tests/unit/pipeline/ingest/test_ordered_executor.py"),
    ),
    Mutation(
        "only the last of the batches written at a time is waited for",
        "pipeline/ingest/in_flight.py",
        "self._writing = {**self._writing, number: partitions}",
        "self._writing = {number: partitions}",
        ("tests/unit/pipeline/ingest/test_write.py",),
    ),
    Mutation(
        "no fold",
        "pipeline/ingest/prepare.py",
        "folded = self._mode.fold(operations)",
        "folded = type(self._mode.fold(()))(tuple(operations), ())",
        ("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "upsert without moving",
        "pipeline/store/writing/protocol.py",
        "for partition, chunks in footprint.items()}\n    return {partition: chunks",
        "for partition, chunks in footprint.items() if partition in place}\n    return {partition: chunks",
        (MACHINE,),
    ),
    Mutation(
        "delete before the upsert",
        "pipeline/store/writing/upsert_writer.py",
        "            written = self._write_rows(work)\n"
        '            failpoints.hit("rows_written")\n'
        "            deleted = self._delete_surplus(work)\n",
        "            deleted = self._delete_surplus(work)\n"
        "            written = self._write_rows(work)\n"
        '            failpoints.hit("rows_written")\n',
        (MACHINE,),
    ),
    Mutation(
        "Milvus partition left out of the id",
        "pipeline/store/writing/rows.py",
        'b"row" + _encoded(tenant) + _encoded(doc_id) + _encoded(milvus_partition)',
        'b"row" + _encoded(tenant) + _encoded(doc_id)',
        (MACHINE,),
    ),
    Mutation(
        "guard with <=",
        "pipeline/store/writing/protocol.py",
        "    if order < 0:\n        return Decision.STALE\n",
        "    if order <= 0:\n        return Decision.STALE\n",
        ("tests/unit/pipeline/store/writing/test_protocol.py",),
    ),
    Mutation(
        "commit what is lost",
        "consumers/kafka/rebalance.py",
        "            self._forget(partitions)\n            self._handler.on_lost(partitions)\n",
        "            await self._commit(self._handler.committable(partitions))\n"
        "            self._forget(partitions)\n"
        "            self._handler.on_lost(partitions)\n",
        ("tests/contract/test_kafka_source.py::test_a_member_that_was_expelled_loses_commits_nothing_and_reads_again",),
    ),
    Mutation(
        "dead letter sent and forgotten",
        "consumers/dead_letters/producer.py",
        "failure = _outcome(future)",
        "failure = None",
        ("tests/contract/test_dead_letters.py",),
    ),
    Mutation(
        "dead letter finished before it is confirmed",
        "pipeline/ingest/stages.py",
        "left_out = self.dead_lettered.union(",
        "left_out = frozenset[Position]().union(",
        ("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "null values skipped",
        "pipeline/ingest/prepare.py",
        "decode(record, now_ms) for record in records]",
        "decode(record, now_ms) for record in records if record.value is not None]",
        ("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "reset to latest",
        "consumers/kafka/connection.py",
        '"auto_offset_reset": "none"',
        '"auto_offset_reset": "latest"',
        (
            "tests/contract/test_kafka_source.py::test_records_that_expire_while_running_stop_the_worker_with_the_size_of_the_gap",
        ),
    ),
    Mutation(
        "begin at the end",
        "consumers/kafka/positions.py",
        "        if log.start == 0:\n            return 0\n",
        "        if log.start == 0:\n            return log.end\n",
        ("tests/unit/consumers/kafka/test_positions.py",),
    ),
    Mutation(
        "no lease check",
        "pipeline/store/milvus/write_lease.py",
        "        if left_s < SHORTEST_S:\n            raise LeaseExpired(_TOO_LATE)\n",
        "        left_s = max(left_s, SHORTEST_S)\n",
        ("tests/unit/consumers/ingest/test_worker.py", MACHINE),
    ),
    Mutation(
        "intent skipped",
        "pipeline/store/writing/upsert_writer.py",
        "intents = [intent(self._ledger.entry(key), step.operation, step.place) for key, step in work.steps.items()]",
        "intents: list[Entry | None] = []",
        (MACHINE,),
    ),
    Mutation(
        "ledger row before the rows",
        "pipeline/store/writing/upsert_writer.py",
        "            written = self._write_rows(work)\n",
        "            self._finish(work)\n            written = self._write_rows(work)\n",
        (MACHINE,),
    ),
    Mutation(
        "stale ids from the new count only",
        "pipeline/store/writing/protocol.py",
        "    ranges = {partition: range(place.get(partition, 0), chunks) for",
        "    ranges = {partition: range(place.get(partition, 0), place.get(partition, chunks)) for",
        (MACHINE,),
    ),
    Mutation(
        "what was known before an assignment is not forgotten",
        "pipeline/store/writing/ledger.py",
        "            self._held = {key: held for key, held in self._held.items() if held.in_flight}\n",
        "            pass\n",
        ("tests/unit/pipeline/store/writing/test_upsert_writer.py", MACHINE),
    ),
    Mutation(
        "stale reads after an assignment",
        "pipeline/store/writing/ledger.py",
        "            self._distrust_until(self._clock() + self._staleness_s)\n",
        "            pass\n",
        (MACHINE,),
    ),
    Mutation(
        "an instant from before the assignment",
        "pipeline/store/writing/ledger.py",
        "        self._since = None\n",
        "",
        (MACHINE,),
    ),
    Mutation(
        "own writes forgotten while reads may miss them",
        "pipeline/store/writing/ledger.py",
        "                self._distrust_until(expires)\n",
        "",
        ("tests/unit/pipeline/store/writing/test_upsert_writer.py", MACHINE),
    ),
    Mutation(
        "a batch in flight is not compared again",
        "pipeline/store/writing/upsert_writer.py",
        "key: Decision.WRITE if in_flight else decide(",
        "key: decide(",
        (MACHINE,),
    ),
    Mutation(
        "a pending document is taken for stored",
        "pipeline/store/writing/protocol.py",
        "if entry.pending or not _holds",
        "if not _holds",
        ("tests/property/test_writer.py", MACHINE),
    ),
    Mutation(
        "a footprint that forgets the old place",
        "pipeline/store/writing/protocol.py",
        "    footprint = dict(before.footprint)\n",
        "    footprint: dict[str, int] = {}\n",
        (MACHINE,),
    ),
    Mutation(
        "rows of a revoked partition written all the same",
        "pipeline/ingest/partition_fencing.py",
        "owned = frozenset(name for name in partitions if not self.revoked(number, name))",
        "owned = frozenset(partitions)",
        ("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "a stored vector under another text",
        "pipeline/store/writing/vector_reuse.py",
        "found[numbers[identifier]][text] = vector",
        "found[numbers[identifier]][chunks[numbers[identifier]][0].text] = vector",
        (MACHINE,),
    ),
)
