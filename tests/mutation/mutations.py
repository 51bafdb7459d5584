"""What is broken on purpose: each one a mistake that somebody could make, and that would lose or falsify documents."""

from dataclasses import dataclass
from pathlib import Path

from tests.mutation.locator import replaced


@dataclass(frozen=True, slots=True)
class Mutation:
    """One mistake: the one place in `function` that equals `old` becomes `new`, however both are laid out."""

    name: str
    function: str
    """Qualified: `package.module.Class.method`."""
    old: str
    """An expression, or statements in a row."""
    new: str
    tests: tuple[str, ...]
    """Paths or node ids of the tests nearest to it, run first; if they pass, all that need no server are run."""

    def apply(self, root: Path) -> None:
        """Make the mistake in the tree at `root`. Raises NotLocated where its place is not there exactly once."""
        path, text = replaced(root, self.function, self.old, self.new)
        path.write_text(text)


MACHINE = "tests/property/test_writer_machine.py"

MUTATIONS = (
    Mutation(
        "commit the highest offset",
        function="consumers.kafka.offsets._Log.lowest",
        old="return self.next if lowest is None else lowest",
        new="""
if lowest is None:
    return self.next
done = [(run, i) for run in self.runs for i, state in enumerate(run.states) if state == _DONE]
return max([lowest, *(run.first + i + 1 for run, i in done)])
""",
        tests=("tests/property/test_offsets.py",),
    ),
    Mutation(
        "commit before the flush",
        function="pipeline.store.flushing.flusher.Flusher.acked",
        old='self._policy.durability == "ack"',
        new="True",
        tests=("tests/unit/pipeline/store/flushing/test_governor.py",),
    ),
    Mutation(
        "a flush under way counts as one to come",
        function="pipeline.store.flushing.shared_marker.PendingOnPeer.observe",
        old="marks.get(flusher, 0) >= count + 2",
        new="marks.get(flusher, 0) >= count + 1",
        tests=("tests/property/test_flush_together.py",),
    ),
    Mutation(
        "insert instead of upsert",
        function="pipeline.store.milvus.client.MilvusServer.upsert",
        old="self._client.insert if self._server.capabilities.insert_replaces_rows else self._client.upsert",
        new="self._client.insert",
        tests=("tests/contract/test_milvus_api.py::test_an_upsert_replaces_within_its_partition[server]",),
    ),
    Mutation(
        "batches written at a time acknowledged in any order",
        function="pipeline.ingest.ordered_executor.OrderedExecutor.submit.run",
        old="before.result()",
        new="before.done()",
        tests=("tests/unit/pipeline/ingest/test_write.py", "tests/unit/pipeline/ingest/test_ordered_executor.py"),
    ),
    Mutation(
        "only the last of the batches written at a time is waited for",
        function="pipeline.ingest.in_flight.BatchesInFlight.begin_write",
        old="{**self._writing, number: partitions}",
        new="{number: partitions}",
        tests=("tests/unit/pipeline/ingest/test_write.py",),
    ),
    Mutation(
        "no fold",
        function="pipeline.ingest.prepare.Preparer._decode",
        old="self._mode.fold(operations)",
        new="type(self._mode.fold(()))(tuple(operations), ())",
        tests=("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "upsert without moving",
        function="pipeline.store.writing.protocol.surplus",
        old="{partition: range(place.get(partition, 0), chunks) for partition, chunks in footprint.items()}",
        new="""
{
    partition: range(place.get(partition, 0), chunks)
    for partition, chunks in footprint.items()
    if partition in place
}
""",
        tests=(MACHINE,),
    ),
    Mutation(
        "delete before the upsert",
        function="pipeline.store.writing.upsert_writer.UpsertWriter.apply",
        old="""
written = self._write_rows(work)
failpoints.hit("rows_written")
deleted = self._delete_surplus(work)
""",
        new="""
deleted = self._delete_surplus(work)
written = self._write_rows(work)
failpoints.hit("rows_written")
""",
        tests=(MACHINE,),
    ),
    Mutation(
        "Milvus partition left out of the id",
        function="pipeline.store.writing.rows.row_ids",
        old='b"row" + _encoded(tenant) + _encoded(doc_id) + _encoded(milvus_partition)',
        new='b"row" + _encoded(tenant) + _encoded(doc_id)',
        tests=(MACHINE,),
    ),
    Mutation(
        "guard with <=",
        function="pipeline.store.writing.protocol.decide",
        old="order < 0",
        new="order <= 0",
        tests=("tests/unit/pipeline/store/writing/test_protocol.py",),
    ),
    Mutation(
        "commit what is lost",
        function="consumers.kafka.rebalance.GroupListener.on_partitions_lost",
        old="self._forget(partitions)",
        new="""
await self._commit(self._handler.committable(partitions))
self._forget(partitions)
""",
        tests=(
            "tests/contract/test_kafka_source.py::test_a_member_that_was_expelled_loses_commits_nothing_and_reads_again",
        ),
    ),
    Mutation(
        "dead letter sent and forgotten",
        function="consumers.dead_letters.producer._Outbox._send_batch",
        old="_outcome(future)",
        new="None",
        tests=("tests/contract/test_dead_letters.py",),
    ),
    Mutation(
        "dead letter finished before it is confirmed",
        function="pipeline.ingest.stages.Written.finished",
        old="self.dead_lettered.union(record.position for record in self.redecided)",
        new="frozenset[Position]().union(record.position for record in self.redecided)",
        tests=("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "null values skipped",
        function="pipeline.ingest.prepare.Preparer._decode",
        old="[self._decoder.decode(record, now_ms) for record in records]",
        new="[self._decoder.decode(record, now_ms) for record in records if record.value is not None]",
        tests=("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "reset to latest",
        function="consumers.kafka.connection.open_consumer",
        old='"none"',
        new='"latest"',
        tests=(
            "tests/contract/test_kafka_source.py::test_records_that_expire_while_running_stop_the_worker_with_the_size_of_the_gap",
        ),
    ),
    Mutation(
        "begin at the end",
        function="consumers.kafka.positions.begin_at",
        old="""
if log.start == 0:
    return 0
""",
        new="""
if log.start == 0:
    return log.end
""",
        tests=("tests/unit/consumers/kafka/test_positions.py",),
    ),
    Mutation(
        "no lease check",
        function="pipeline.store.milvus.write_lease.Lease.bounded",
        old="""
if left_s < SHORTEST_S:
    raise LeaseExpired(_TOO_LATE)
""",
        new="left_s = max(left_s, SHORTEST_S)",
        tests=("tests/unit/consumers/ingest/test_worker.py", MACHINE),
    ),
    Mutation(
        "intent skipped",
        function="pipeline.store.writing.upsert_writer.UpsertWriter._begin",
        old="[intent(self._ledger.entry(key), step.operation, step.place) for key, step in work.steps.items()]",
        new="[]",
        tests=(MACHINE,),
    ),
    Mutation(
        "ledger row before the rows",
        function="pipeline.store.writing.upsert_writer.UpsertWriter.apply",
        old="written = self._write_rows(work)",
        new="""
self._finish(work)
written = self._write_rows(work)
""",
        tests=(MACHINE,),
    ),
    Mutation(
        "stale ids from the new count only",
        function="pipeline.store.writing.protocol.surplus",
        old="range(place.get(partition, 0), chunks)",
        new="range(place.get(partition, 0), place.get(partition, chunks))",
        tests=(MACHINE,),
    ),
    Mutation(
        "what was known before an assignment is not forgotten",
        function="pipeline.store.writing.ledger.Ledger.forget",
        old="self._cached = {key: cached for key, cached in self._cached.items() if cached.in_flight}",
        new="pass",
        tests=("tests/unit/pipeline/store/writing/test_upsert_writer.py", MACHINE),
    ),
    Mutation(
        "stale reads after an assignment",
        function="pipeline.store.writing.ledger.Ledger.invalidate",
        old="self._distrust_until(self._clock() + self._staleness_s)",
        new="pass",
        tests=(MACHINE,),
    ),
    Mutation(
        "an instant from before the assignment",
        function="pipeline.store.writing.ledger.Ledger._distrust_until",
        old="self._since = None",
        new="pass",
        tests=(MACHINE,),
    ),
    Mutation(
        "own writes forgotten while reads may miss them",
        function="pipeline.store.writing.ledger.Ledger._evict",
        old="self._distrust_until(expires)",
        new="pass",
        tests=("tests/unit/pipeline/store/writing/test_upsert_writer.py", MACHINE),
    ),
    Mutation(
        "a batch in flight is not compared again",
        function="pipeline.store.writing.upsert_writer.UpsertWriter._classify",
        old="Decision.WRITE if in_flight else decide(entry, by_key[key], hashes.get(key), self._fingerprint)",
        new="decide(entry, by_key[key], hashes.get(key), self._fingerprint)",
        tests=(MACHINE,),
    ),
    Mutation(
        "a pending document is taken for stored",
        function="pipeline.store.writing.protocol.decide",
        old="entry.pending or not _holds(entry, hashes, fingerprint)",
        new="not _holds(entry, hashes, fingerprint)",
        tests=("tests/property/test_writer.py", MACHINE),
    ),
    Mutation(
        "a footprint that forgets the old place",
        function="pipeline.store.writing.protocol.intent",
        old="footprint = dict(before.footprint)",
        new="footprint: dict[str, int] = {}",
        tests=(MACHINE,),
    ),
    Mutation(
        "rows of a revoked partition written all the same",
        function="pipeline.ingest.partition_fencing.PartitionFence.write_lock",
        old="frozenset(name for name in partitions if not self.revoked(number, name))",
        new="frozenset(partitions)",
        tests=("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "wrong dates take the last Milvus partitions",
        function="pipeline.store.partitions.MilvusPartitions.ensure",
        old="self._max - reserved_partitions(self._max)",
        new="self._max",
        tests=("tests/unit/pipeline/store/test_partitions.py",),
    ),
    Mutation(
        "a record of today is refused at the limit of Milvus partitions",
        function="pipeline.store.partitions.MilvusPartitions.ensure",
        old="raise Unavailable(self._full(len(known), name))",
        new="refused.add(name)",
        tests=("tests/unit/pipeline/store/test_partitions.py",),
    ),
    Mutation(
        "JSON that is no object becomes a text",
        function="pipeline.intake.formats.auto.AutoFormat.read",
        old="value.lstrip(SPACES)[:1] == _BEGINS_OBJECT or _parses(value)",
        new="value.lstrip(SPACES)[:1] == _BEGINS_OBJECT",
        tests=("tests/unit/pipeline/intake/formats/test_formats.py",),
    ),
    Mutation(
        "a stored vector under another text",
        function="pipeline.store.writing.vector_reuse.stored_vectors",
        old="vectors[numbers[identifier]][text] = vector",
        new="vectors[numbers[identifier]][chunks[numbers[identifier]][0].text] = vector",
        tests=(MACHINE,),
    ),
)
