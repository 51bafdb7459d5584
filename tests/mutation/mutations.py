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
MEMBERSHIP = "tests/contract/test_kafka_membership.py"
POWER_LOSS = "tests/property/test_power_loss.py"

MUTATIONS = (
    Mutation(
        "commit the highest offset",
        function="consumers.kafka.positions.offset_tracker._Log.lowest",
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
        function="pipeline.ingest.queues.ordered_executor.OrderedExecutor.submit.run",
        old="before.result()",
        new="before.done()",
        tests=(
            "tests/unit/pipeline/ingest/test_write.py",
            "tests/unit/pipeline/ingest/queues/test_ordered_executor.py",
        ),
    ),
    Mutation(
        "only the last of the batches written at a time is waited for",
        function="pipeline.ingest.ownership.in_flight.BatchesInFlight.begin_write",
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
        function="pipeline.store.writing.protocol.decisions.surplus",
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
        function="pipeline.store.writing.protocol.decisions.decide",
        old="order < 0",
        new="order <= 0",
        tests=("tests/unit/pipeline/store/writing/protocol/test_decisions.py",),
    ),
    Mutation(
        "commit what is lost",
        function="consumers.kafka.source.rebalance.GroupListener.on_partitions_lost",
        old="self._lose(partitions)",
        new="""
await self._commit(self._handler.committable(partitions))
self._lose(partitions)
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
        old="[self._decoder.decode(record, now_ms) for record in undecided]",
        new="[self._decoder.decode(record, now_ms) for record in undecided if record.value is not None]",
        tests=("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "reset to latest",
        function="consumers.kafka.client.connection.open_consumer",
        old='"none"',
        new='"latest"',
        tests=(
            "tests/contract/test_kafka_source.py::test_records_that_expire_while_running_stop_the_worker_with_the_size_of_the_gap",
        ),
    ),
    Mutation(
        "begin at the end",
        function="consumers.kafka.positions.begin.begin_at",
        old="""
if log.start == 0:
    return 0
""",
        new="""
if log.start == 0:
    return log.end
""",
        tests=("tests/unit/consumers/kafka/positions/test_begin.py",),
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
        old="[self._intent(key, step) for key, step in work.steps.items()]",
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
        function="pipeline.store.writing.protocol.decisions.surplus",
        old="range(place.get(partition, 0), chunks)",
        new="range(place.get(partition, 0), place.get(partition, chunks))",
        tests=(MACHINE,),
    ),
    Mutation(
        "what was known before an assignment is not forgotten",
        function="pipeline.store.writing.ledger.ledger.Ledger.invalidate",
        old="self._cached = {key: cached for key, cached in self._cached.items() if cached.in_flight}",
        new="pass",
        tests=("tests/unit/pipeline/store/writing/test_upsert_writer.py", MACHINE),
    ),
    Mutation(
        "stale reads after an assignment",
        function="pipeline.store.writing.ledger.ledger.Ledger.invalidate",
        old="self._distrust_until(self._clock() + self._staleness_s)",
        new="pass",
        tests=(MACHINE,),
    ),
    Mutation(
        "an instant from before the assignment",
        function="pipeline.store.writing.ledger.ledger.Ledger._distrust_until",
        old="self._since = None",
        new="pass",
        tests=(MACHINE,),
    ),
    Mutation(
        "own writes forgotten while reads may miss them",
        function="pipeline.store.writing.ledger.ledger.Ledger._evict",
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
        function="pipeline.store.writing.protocol.decisions.decide",
        old="entry.pending or not _holds(entry, hashes, fingerprint)",
        new="not _holds(entry, hashes, fingerprint)",
        tests=("tests/property/test_writer.py", MACHINE),
    ),
    Mutation(
        "a footprint that forgets the old place",
        function="pipeline.store.writing.protocol.decisions.intent",
        old="merged(before.footprint, place, beyond or {})",
        new="merged(place, beyond or {})",
        tests=(MACHINE,),
    ),
    Mutation(
        "rows of a revoked partition written all the same",
        function="pipeline.ingest.ownership.partition_fencing.PartitionFence.write_lock",
        old="frozenset(name for name in partitions if not self.revoked(number, name))",
        new="frozenset(partitions)",
        tests=("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "a loss during a join that the client keeps to itself",
        function="consumers.kafka.client.internals._Coordinator.reset_generation",
        old="self.rejoining = False",
        new="pass",
        tests=(f"{MEMBERSHIP}::test_the_client_announces_a_loss_during_a_join",),
    ),
    Mutation(
        "what was assigned to a former member id is kept",
        function="consumers.kafka.source.rebalance.GroupListener.outlived",
        old="self._member != member_id(self._consumer)",
        new="False",
        tests=(f"{MEMBERSHIP}::test_a_loss_that_the_client_does_not_announce_is_noticed_by_the_member_id",),
    ),
    Mutation(
        "a replaced static member reads and writes on",
        function="consumers.kafka.client.internals.is_replaced",
        old="not coordinator._heartbeat_enabled",
        new="False",
        tests=(f"{MEMBERSHIP}::test_a_static_member_takes_over_when_the_lease_of_the_one_it_replaces_is_over",),
    ),
    Mutation(
        "a static member writes beside the one it replaces",
        function="consumers.kafka.source.group_source.KafkaSource._take_over_s",
        old="self._joined[1] + STATIC_LEASE_S - now",
        new="self._joined[1] - now",
        tests=(f"{MEMBERSHIP}::test_a_static_member_takes_over_when_the_lease_of_the_one_it_replaces_is_over",),
    ),
    Mutation(
        "a receipt of a former assignment finishes what is read again",
        function="pipeline.ingest.ownership.partition_fencing.PartitionFence.finished",
        old="receipt.batch > self._last_ended",
        new="True",
        tests=(
            "tests/unit/consumers/ingest/test_worker.py::test_a_receipt_of_a_former_assignment_finishes_nothing_that_is_read_again",
        ),
    ),
    Mutation(
        "a replay reads nothing again of what it had read to its end",
        function="consumers.replay.source.ReplaySource.reread",
        old="self._unfinished = set(self._ends)",
        new="pass",
        tests=("tests/contract/test_replay_source.py",),
    ),
    Mutation(
        "records that are read again count a second time",
        function="consumers.ingest.progress.Progress.take",
        old="offset >= self.read_to.get((topic, number), 0)",
        new="True",
        tests=("tests/unit/consumers/ingest/test_power_loss.py",),
    ),
    Mutation(
        "a batch of a former assignment is written after a reread",
        function="pipeline.ingest.ownership.partition_fencing.PartitionFence.assign",
        old="self._end_epochs(partitions)",
        new="pass",
        tests=(
            "tests/unit/pipeline/ingest/ownership/test_partition_fencing.py",
            "tests/unit/consumers/ingest/test_worker.py",
        ),
    ),
    Mutation(
        "heartbeats on a clock that stops while the machine is suspended",
        function="consumers.kafka.client.internals._Heartbeat.sent_heartbeat",
        old="self.clock.beat()",
        new="LeaseClock().beat()",
        tests=(f"{MEMBERSHIP}::test_the_lease_ends_while_the_machine_is_suspended_and_begins_with_the_next_heartbeat",),
    ),
    Mutation(
        "a lease that a jump of the wall clock does not end",
        function="consumers.kafka.client.lease_clock.LeaseClock.certain",
        old="abs(jump) <= JUMP_S",
        new="True",
        tests=(f"{MEMBERSHIP}::test_a_jump_of_the_wall_clock_ends_the_lease_until_the_next_heartbeat",),
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
        "a redo sends its dead letters again",
        function="consumers.dead_letters.earlier.EarlierDeadLetters.holds",
        old="origin in self._contents or origin in self._confirmed",
        new="False",
        tests=("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "another record at the position of a dead letter counts as sent",
        function="consumers.dead_letters.earlier._digest",
        old="digest.update(b'-' if part is None else b'%d:%b' % (len(part), part))",
        new="pass",
        tests=("tests/contract/test_dead_letters.py",),
    ),
    Mutation(
        "a forwarded record keeps a key that is not its document",
        function="consumers.rekey.stage.RekeyStage._keyed",
        old="Forwarded(record, key)",
        new="Forwarded(record, record.key)",
        tests=("tests/contract/test_rekey.py",),
    ),
    Mutation(
        "a transaction carries the membership of the moment of its commit",
        function="consumers.kafka.source.group_source.KafkaSource.transaction_offsets",
        old="self._read_as",
        new="self._open_consumer().group_metadata()",
        tests=("tests/contract/test_rekey.py",),
    ),
    Mutation(
        "a member that was removed commits a transaction",
        function="consumers.kafka.source.group_source.KafkaSource.transaction_offsets",
        old="group.generation_id < 0 or not listener.assigned_to(group.member_id)",
        new="False",
        tests=("tests/contract/test_rekey.py",),
    ),
    Mutation(
        "records behind those of a failed transaction are forwarded",
        function="consumers.rekey.stage.RekeyStage._round",
        old="records and not self._reread_due",
        new="records",
        tests=("tests/contract/test_rekey.py",),
    ),
    Mutation(
        "committed offsets are read while a transaction still commits some",
        function="consumers.kafka.client.internals.wait_for_transactions",
        old="request.require_stable = True",
        new="pass",
        tests=("tests/contract/test_rekey.py",),
    ),
    Mutation(
        "a stored vector under another text",
        function="pipeline.store.writing.vector_reuse.stored_vectors",
        old="vectors[numbers[identifier]][text] = vector",
        new="vectors[numbers[identifier]][chunks[numbers[identifier]][0].text] = vector",
        tests=(MACHINE,),
    ),
    Mutation(
        "a redo believes the ledger",
        function="pipeline.store.writing.redo_check.RedoCheck._damaged_rows",
        old="self._check is None or not entries",
        new="True",
        tests=("tests/unit/pipeline/store/writing/test_upsert_writer.py", POWER_LOSS),
    ),
    Mutation(
        "rows counted, whatever record wrote them",
        function="pipeline.store.writing.row_check.RowCheck._compare",
        old="found.get(expected.identifier) != expected.position",
        new="(expected.identifier in found) != (expected.position is not None)",
        tests=("tests/unit/pipeline/store/writing/test_upsert_writer.py", POWER_LOSS),
    ),
    Mutation(
        "places left behind are forgotten at once",
        function="pipeline.store.writing.protocol.decisions.final",
        old="left_behind({} if before is None else before.footprint, place)",
        new="left_behind({}, place)",
        tests=("tests/unit/pipeline/store/writing/test_upsert_writer.py", POWER_LOSS),
    ),
    Mutation(
        "rows of what is folded away in a redo stay",
        function="pipeline.ingest.prepare.Preparer._folded",
        old="bounds.maybe_written(one.position)",
        new="False",
        tests=("tests/unit/consumers/ingest/test_redo.py",),
    ),
    Mutation(
        "an intent that an outage may have lost is not written again",
        function="pipeline.store.writing.ledger.ledger.Ledger.doubtful",
        old="self._cached[key].outages != self._outages",
        new="False",
        tests=("tests/unit/pipeline/store/writing/test_upsert_writer.py",),
    ),
    Mutation(
        "a rejected record leaves its document half-way",
        function="pipeline.ingest.prepare.Preparer._decide_rejected",
        old="self._restorer is None or not rejected",
        new="True",
        tests=("tests/recovery/test_crashes_as_data.py",),
    ),
    Mutation(
        "a dead letter before its document is restored",
        function="pipeline.ingest.restore.DocumentRestorer.decide",
        old="verdict.restoring += entries",
        new="""
verdict.restoring += entries
verdict.send += [entry.rejected for entry in entries]
""",
        tests=("tests/unit/consumers/ingest/test_restore.py",),
    ),
    Mutation(
        "what a job has read is trusted after workers came and went",
        function="consumers.kafka.groups.live_group.LiveGroup.left_s",
        old="not absent or self.absence != absence",
        new="not absent",
        tests=("tests/property/test_job_exclusion.py",),
    ),
    Mutation(
        "a worker does not wait for the last request of a job",
        function="consumers.kafka.groups.live_group.await_jobs",
        old="now() + QUIET_S + _MARGIN_S",
        new="now()",
        tests=("tests/property/test_job_exclusion.py",),
    ),
    Mutation(
        "a question counts from its answer",
        function="consumers.kafka.groups.live_group.LiveGroup.absent",
        old="""
asked = self._clock.beat()
active = self._active()
""",
        new="""
active = self._active()
asked = self._clock.beat()
""",
        tests=("tests/property/test_job_exclusion.py",),
    ),
    Mutation(
        "a replay writes what it planned before workers came and went",
        function="consumers.replay.guard.GuardedWriter._absent",
        old="self._live.absence != self._absence",
        new="False",
        tests=("tests/unit/consumers/replay/test_guard.py",),
    ),
    Mutation(
        "a replay without a lease",
        function="consumers.replay.source.ReplaySource.last_heartbeat",
        old="self._member.last_heartbeat()",
        new="time.monotonic()",
        tests=("tests/unit/consumers/replay/test_job.py",),
    ),
    Mutation(
        "a repair trusts the ledger that it read before embedding",
        function="consumers.audit.repair.Repairer._unchanged",
        old="stored[document.name][0] == document.entry",
        new="True",
        tests=("tests/unit/consumers/audit/test_repair.py",),
    ),
    Mutation(
        "every job takes itself for the one that runs",
        function="consumers.kafka.groups.job_membership.JobMembership._on_assigned",
        old='identity["token"] != self._token',
        new="False",
        tests=("tests/contract/test_job_membership.py",),
    ),
    Mutation(
        "refusals in an outage count against a document",
        function="pipeline.store.writing.requests.unlisted_answers.UnlistedAnswers._alone",
        old="not suspect.alone or self._accepted > suspect.accepted",
        new="True",
        tests=("tests/unit/pipeline/store/writing/requests/test_unlisted_answers.py",),
    ),
    Mutation(
        "a refusal in unlisted words holds up its batch for ever",
        function="pipeline.store.writing.requests.unlisted_answers.UnlistedAnswers._may_split",
        old="self._fruitless.add(first)",
        new="return False",
        tests=("tests/unit/consumers/ingest/test_unlisted_answers.py",),
    ),
    Mutation(
        "a record set aside is finished",
        function="pipeline.ingest.stages.records_to_redecide",
        old="positions.update(operation.position for operation in set_aside)",
        new="positions",
        tests=("tests/unit/consumers/ingest/test_unlisted_answers.py",),
    ),
    Mutation(
        "a read refused in unlisted words is repeated for ever",
        function="pipeline.ingest.circuit_breaker.CircuitBreaker._goes_on",
        old="unlisted.times += 1",
        new="unlisted.times += 0",
        tests=("tests/unit/pipeline/ingest/test_circuit_breaker.py",),
    ),
    Mutation(
        "a null in an added column shifts the values behind it",
        function="pipeline.store.milvus.column_packing._pack_nullable",
        old="data.valid_data.extend([value is not None for value in values])",
        new="data.valid_data.extend([True] * len(packed))",
        tests=("tests/unit/pipeline/store/milvus/test_column_packing.py",),
    ),
    Mutation(
        "one document in two requests",
        function="pipeline.store.writing.requests.upsert_requests._parts",
        old="""
if sum(group.sizes) <= policy.max_bytes:
    yield group
    return
""",
        new="""
if len(group.rows) > policy.max_rows:
    yield _cut(group, 0, policy.max_rows)
    group = _cut(group, policy.max_rows, len(group.rows))
if sum(group.sizes) <= policy.max_bytes:
    yield group
    return
""",
        tests=("tests/unit/pipeline/store/writing/requests/test_upsert_requests.py",),
    ),
    Mutation(
        "a compacted topic's deletes vanish unread",
        function="consumers.kafka.positions.compaction.CompactionWatch.observe",
        old="end > log.passed.end",
        new="False",
        tests=("tests/property/test_compaction.py",),
    ),
    Mutation(
        "a restart forgets how far back it has read",
        function="consumers.kafka.positions.compaction.CompactionWatch.check_commit",
        old="retention_ms is not None and read_to_ms is not None and end > offset",
        new="False",
        tests=("tests/property/test_compaction.py",),
    ),
    Mutation(
        "dead letters that Kafka forgets are found by doctor only",
        function="consumers.wiring.start_warnings.log_warnings",
        old="topic_warnings(settings, facts)",
        new="()",
        tests=("tests/unit/consumers/wiring/test_start_warnings.py",),
    ),
    Mutation(
        "a worker that too many rejected records stopped is started again",
        function="consumers.supervisor.restarts.outcome",
        old="code in _FINAL",
        new="code in (2, 4)",
        tests=("tests/unit/consumers/supervisor/test_restarts.py",),
    ),
    Mutation(
        "a worker that is started again goes on behind the next gap",
        function="consumers.supervisor.worker.Worker._start",
        old="self.starts == 0",
        new="True",
        tests=("tests/unit/consumers/supervisor/test_supervisor.py",),
    ),
    Mutation(
        "another mode or mapping fills a collection",
        function="pipeline.store.collection.stamp.compare",
        old="rule_problems(stored, own)",
        new="[]",
        tests=("tests/unit/consumers/wiring/test_stamp.py",),
    ),
    Mutation(
        "two groups read one topic into one collection",
        function="pipeline.store.collection.stamp.filler_problems",
        old="(shared := topics & theirs)",
        new="(shared := frozenset[str]())",
        tests=("tests/unit/pipeline/store/collection/test_filling.py",),
    ),
    Mutation(
        "a redo in append mode after another chunking",
        function="consumers.wiring.stamp._rules",
        old="mode_of(settings).one_version",
        new="True",
        tests=("tests/unit/consumers/wiring/test_stamp.py",),
    ),
    Mutation(
        "a recreated topic overwrites appended rows",
        function="pipeline.store.writing.append_writer.AppendWriter.apply",
        old="embedded.put.topic_id if self._with_topic_id else None",
        new="None",
        tests=("tests/unit/consumers/wiring/test_stamp.py",),
    ),
    Mutation(
        "new ids for the rows of a former version's append collection",
        function="pipeline.store.collection.stamp.described_stamp",
        old='CollectionStamp(model, None, append_ids="topic-name")',
        new="CollectionStamp(model, None)",
        tests=("tests/unit/consumers/wiring/test_stamp.py",),
    ),
    Mutation(
        "a group goes on in another collection",
        function="consumers.kafka.groups.binding.CollectionBinding.check",
        old="not self._is_other(commit) or self.adopt",
        new="True",
        tests=("tests/unit/consumers/kafka/groups/test_binding.py",),
    ),
    Mutation(
        "what Milvus lost with its power is not read again",
        function="consumers.ingest.settlement.Settlement.reread_lost",
        old="self._must_reread or self.unfinished",
        new="self._must_reread",
        tests=("tests/unit/consumers/ingest/test_power_loss.py",),
    ),
    Mutation(
        "a flush after a loss of power finishes what came before it",
        function="consumers.ingest.settlement.Settlement.settle",
        old="self.lost",
        new="False",
        tests=("tests/unit/consumers/ingest/test_settlement.py", "tests/unit/consumers/ingest/test_power_loss.py"),
    ),
    Mutation(
        "positions from before a loss of power are written after it",
        function="consumers.ingest.settlement.Settlement.milvus_lost",
        old="self._governor.drop()",
        new="pass",
        tests=("tests/unit/consumers/ingest/test_settlement.py",),
    ),
    Mutation(
        "a run has caught up with Kafka partitions whose end is unknown",
        function="consumers.ingest.worker.IngestWorker._finished",
        old="p in lag and lag[p].position >= progress.targets[p]",
        new="p not in lag or lag[p].position >= progress.targets[p]",
        tests=("tests/unit/consumers/ingest/test_worker.py",),
    ),
    Mutation(
        "a dead letter that waited while its record was read again is sent twice",
        function="consumers.dead_letters.earlier.EarlierDeadLetters.confirmed",
        old="self._confirmed[_origin(dead_letter)] = None",
        new="pass",
        tests=("tests/unit/consumers/dead_letters/test_producer.py",),
    ),
    Mutation(
        "what was folded into a record of a revoked partition counts as written",
        function="pipeline.ingest.write.WriteStage._apply",
        old="{operation.key for operation in embedded.decoded.operations if lost(operation)}",
        new="()",
        tests=("tests/unit/pipeline/ingest/test_write.py",),
    ),
    Mutation(
        "a flush after a loss of power makes durable what came before it",
        function="pipeline.store.flushing.flusher.Flusher.drop",
        old="self._receipts = []",
        new="pass",
        tests=("tests/property/test_flush_together.py",),
    ),
    Mutation(
        "a connection that breaks while it is idle is not noticed",
        function="pipeline.store.milvus.connection_watch.ConnectionWatch.state_changed",
        old="ready and not self._ready",
        new="False",
        tests=("tests/unit/pipeline/store/milvus/test_connection_watch.py",),
    ),
    Mutation(
        "commit beyond what Milvus remembers",
        function="consumers.kafka.positions.offset_tracker.OffsetTracker.committable",
        old="min(log.lowest(), log.secured)",
        new="log.lowest()",
        tests=("tests/property/test_offsets.py", "tests/unit/consumers/ingest/test_power_loss.py"),
    ),
    Mutation(
        "a position of a former assignment counts",
        function="consumers.kafka.positions.offset_tracker.OffsetTracker.secured",
        old="log is not None and log.assignment == reached.assignment",
        new="log is not None",
        tests=("tests/property/test_offsets.py",),
    ),
    Mutation(
        "go on over a collection that was dropped",
        function="consumers.kafka.positions.remembered.check_commit",
        old="commit > 0 and not remembered.filled",
        new="False",
        tests=("tests/unit/consumers/kafka/positions/test_start_positions.py",),
    ),
    Mutation(
        "go on over a collection that was restored",
        function="consumers.kafka.positions.remembered.check_commit",
        old="commit > position.offset",
        new="False",
        tests=("tests/unit/consumers/kafka/positions/test_start_positions.py",),
    ),
    Mutation(
        "a group whose offsets have expired passes for a new one",
        function="consumers.kafka.positions.remembered.begin_without_commit",
        old="position.offset == held.start",
        new="True",
        tests=("tests/unit/consumers/kafka/positions/test_start_positions.py",),
    ),
    Mutation(
        "a start whose commit was lost passes for commits that have expired",
        function="consumers.kafka.positions.remembered.RememberedPositions.write",
        old="{name: at for name, at in self._uncommitted.items() if name in owned}",
        new="{}",
        tests=("tests/unit/consumers/ingest/test_power_loss.py",),
    ),
    Mutation(
        "commits that have expired pass for a start whose commit was lost",
        function="consumers.kafka.positions.remembered.RememberedPositions.confirmed",
        old="self._uncommitted.pop(name, None)",
        new="None",
        tests=("tests/unit/consumers/kafka/positions/test_start_positions.py",),
    ),
    Mutation(
        "a confirmed commit leaves a start without one",
        function="consumers.kafka.source.rebalance.GroupListener.confirmed",
        old="self.positions.confirmed(offsets)",
        new="None",
        tests=("tests/contract/test_position_handover.py",),
    ),
    Mutation(
        "a start whose commit was lost is repeated where records of it are gone",
        function="consumers.kafka.positions.remembered.begin_without_commit",
        old="held.start <= position.began",
        new="not gap",
        tests=("tests/unit/consumers/kafka/positions/test_start_positions.py",),
    ),
    Mutation(
        "a former owner writes its position over that of the next one",
        function="consumers.kafka.positions.remembered.RememberedPositions.write",
        old="at >= self._lowest.get(name, 0)",
        new="True",
        tests=("tests/unit/consumers/kafka/positions/test_remembered.py",),
    ),
    Mutation(
        "the next owner reads positions before the last write of the former one",
        function="consumers.kafka.source.rebalance.GroupListener._revoke",
        old="self._handler.writing(partitions) or self.positions.writing(partitions)",
        new="self._handler.writing(partitions)",
        tests=("tests/contract/test_position_handover.py",),
    ),
    Mutation(
        "a member leaves before its last write of a position",
        function="consumers.kafka.source.rebalance.GroupListener.close",
        old="self.positions.writing(owned)",
        new="False",
        tests=("tests/contract/test_position_handover.py",),
    ),
    Mutation(
        "a commit added while others are compared is never compared",
        function="consumers.kafka.positions.remembered.RememberedPositions._compare",
        old="dict(self._expected.items() - expected.items())",
        new="{}",
        tests=("tests/unit/consumers/kafka/positions/test_remembered.py",),
    ),
    Mutation(
        "what a paused partition has left of its fetch is never read again",
        function="consumers.kafka.client.internals._BoundedFetcher.fetched_records",
        old="not self._next_partition_records",
        new="False",
        tests=("tests/contract/test_replay_source.py",),
    ),
    Mutation(
        "a log that was cut below what is stored is read on",
        function="consumers.kafka.positions.begin.begin_at",
        old="position is not None and position.offset > log.end",
        new="False",
        tests=("tests/unit/consumers/ingest/test_power_loss.py",),
    ),
    Mutation(
        "a topic made again is taken for one that was never read",
        function="consumers.kafka.positions.start_positions.StartPositions._situation",
        old="unknown & {topic for topic, _ in (stored.former if stored else ())}",
        new="set()",
        tests=("tests/contract/test_kafka_source.py", "tests/unit/consumers/kafka/positions/test_start_positions.py"),
    ),
    Mutation(
        "offsets are committed without the leader epoch",
        function="consumers.kafka.positions.start_positions.StartPositions.metadata",
        old="self.epochs.before(partition, offset)",
        new="UNKNOWN",
        tests=(
            "tests/unit/consumers/kafka/positions/test_start_positions.py",
            "tests/integration/test_truncated_log.py",
        ),
    ),
    Mutation(
        "a count of a mark is used twice",
        function="pipeline.store.collection.marks.Marks._remember",
        old="max(highest, self._counts.get((kind, name), 0))",
        new="highest",
        tests=("tests/unit/pipeline/store/collection/test_marks.py",),
    ),
    Mutation(
        "of two Kafka partitions any version is newer",
        function="pipeline.order._versions_across_logs",
        old="1 if ours > theirs else -1",
        new="1",
        tests=("tests/property/test_order.py",),
    ),
    Mutation(
        "versions compared across a null value",
        function="pipeline.order._in_log",
        old="offset < stored.reset_offset",
        new="False",
        tests=(
            "tests/property/test_order.py",
            "tests/unit/consumers/replay/test_guard.py",
        ),
    ),
    Mutation(
        "a null value and a version of one log compared by arrival",
        function="pipeline.order._in_log",
        old="stored.version is not None and record.version is not None",
        new="stored.version is None or record.version is None",
        tests=(
            "tests/property/test_order.py",
            "tests/unit/consumers/replay/test_guard.py",
        ),
    ),
    Mutation(
        "timestamps of two Kafka partitions not compared",
        function="pipeline.order._across_logs",
        old="timed and record.time_ms != stored.time_ms",
        new="False",
        tests=("tests/property/test_order.py",),
    ),
    Mutation(
        "a null value that is folded away is forgotten",
        function="pipeline.intake.fold.fold",
        old="newer if rank == rank_of(newer) else replace(newer, rank=rank)",
        new="newer",
        tests=("tests/property/test_order.py",),
    ),
    Mutation(
        "another worker's document answered from memory",
        function="pipeline.store.writing.ledger.ledger.Ledger._is_foreign",
        old="entry.position[:2] not in self._owned()",
        new="False",
        tests=("tests/unit/pipeline/store/writing/test_two_workers.py",),
    ),
    Mutation(
        "a document that another worker has finished is restored",
        function="pipeline.store.writing.upsert_writer._finished",
        old="now is not None and not now.pending and now != before",
        new="False",
        tests=("tests/unit/pipeline/store/writing/test_two_workers.py",),
    ),
    Mutation(
        "what a batch has written while the next one was planned is forgotten",
        function="pipeline.store.writing.ledger.ledger.Ledger.cache",
        old="was_in_flight or cached.in_flight or cached.entry == entry",
        new="cached.in_flight or cached.entry == entry",
        tests=("tests/unit/pipeline/store/writing/ledger/test_ledger.py",),
    ),
    Mutation(
        "an entry dropped while it was planned is taken for what was read",
        function="pipeline.store.writing.ledger.ledger.Ledger.cache",
        old="""
_CachedEntry(entry, before, settled, now, outages=outages, outdated=was_in_flight)
""",
        new="_CachedEntry(entry, before, settled, now, outages=outages)",
        tests=("tests/unit/pipeline/store/writing/ledger/test_ledger.py",),
    ),
    Mutation(
        "shared documents that nobody has stored are not read again before the write",
        function="pipeline.store.writing.ledger.ledger.Ledger.refresh",
        old="self._shared or key in always or self._is_doubted(self._cached[key])",
        new="key in always or self._is_doubted(self._cached[key])",
        tests=("tests/unit/pipeline/store/writing/test_two_workers.py",),
    ),
    Mutation(
        "another worker's document not read again before the write",
        function="pipeline.store.writing.upsert_writer.UpsertWriter.apply",
        old="self._ledger.refresh(plan.in_flight, half_written)",
        new="None",
        tests=("tests/unit/pipeline/store/writing/test_two_workers.py",),
    ),
    Mutation(
        "a delete folded into a refused record waits for later batches",
        function="pipeline.ingest.embed.EmbedStage._join",
        old="[plan.fallback[entry.key] for entry in refused if entry.key in plan.fallback]",
        new="[]",
        tests=("tests/unit/consumers/ingest/test_folded_deletes.py",),
    ),
    Mutation(
        "a delete folded into a put that the plan refuses waits for later batches",
        function="pipeline.ingest.prepare.Preparer._with_folded_deletes",
        old="not deletes",
        new="True",
        tests=("tests/unit/consumers/ingest/test_folded_deletes.py",),
    ),
    Mutation(
        "a delete folded into a put that Milvus refuses waits for later batches",
        function="pipeline.store.writing.upsert_writer.UpsertWriter._write_rows",
        old="work.instead[key] = delete",
        new="pass",
        tests=("tests/unit/consumers/ingest/test_folded_deletes.py",),
    ),
    Mutation(
        "tombstones age by the record's time",
        function="pipeline.store.writing.ledger.ledger.Ledger.write",
        old="entry._replace(written_ms=now_ms)",
        new="entry._replace(written_ms=entry.record_time)",
        tests=("tests/unit/pipeline/store/writing/ledger/test_tombstone_cleanup.py",),
    ),
    Mutation(
        "a tombstone removed without a second read",
        function="pipeline.store.writing.ledger.tombstone_cleanup.TombstoneSweep._sweep",
        old='row_entry(row) == found[row["id"]]',
        new="True",
        tests=("tests/unit/pipeline/store/writing/ledger/test_tombstone_cleanup.py",),
    ),
    Mutation(
        "a tombstone removed that the server has beside a newer row",
        function="pipeline.store.writing.ledger.tombstone_cleanup.TombstoneSweep._sweep",
        old='row["id"] not in doubled',
        new="True",
        tests=("tests/unit/pipeline/store/writing/ledger/test_repeated_rows.py",),
    ),
    Mutation(
        "a ledger row that is there twice is believed",
        function="pipeline.store.writing.ledger.repeated_rows.repeated_entries",
        old="_count(api, ledger, ids, consistency) <= distinct",
        new="True",
        tests=("tests/unit/pipeline/store/writing/ledger/test_repeated_rows.py",),
    ),
    Mutation(
        "a filter shows an older version",
        function="pipeline.query.version_check.version_age",
        old="of_one_log and position.offset < stored.written_at.offset",
        new="False",
        tests=("tests/unit/pipeline/query/test_version_check.py",),
    ),
    Mutation(
        "a document that is being changed is shown without a warning",
        function="pipeline.query.version_check.version_age",
        old="stored.pending",
        new="False",
        tests=("tests/unit/pipeline/query/test_version_check.py",),
    ),
    Mutation(
        "a search reads as few rows as its ef",
        function="pipeline.store.collection.indexes.search_params",
        old="least is not None and least < limit",
        new="False",
        tests=("tests/unit/pipeline/store/collection/test_indexes.py",),
    ),
    Mutation(
        "a limit of documents counts their chunks",
        function="pipeline.query.ranking.best",
        old="group_by is None",
        new="True",
        tests=("tests/unit/pipeline/query/test_groups.py",),
    ),
    Mutation(
        "vectors of another dimension are sent to Milvus",
        function="pipeline.query.request.vectors.QueryVectors.check_dimension",
        old="dimension is not None and given != dimension",
        new="False",
        tests=("tests/unit/pipeline/query/test_options.py",),
    ),
    Mutation(
        "large bodies take any memory",
        function="consumers.query.body.LargeBodies.room.take",
        old="count > self._left",
        new="False",
        tests=("tests/unit/consumers/query/test_body.py",),
    ),
    Mutation(
        "a cursor opens for another tenant",
        function="pipeline.query.cursor.Cursors._mac",
        old="[self._collection, tenant]",
        new="[self._collection]",
        tests=("tests/unit/pipeline/query/test_cursor.py",),
    ),
    Mutation(
        "a page shows again what a page before has shown",
        function="pipeline.query.returned.Returned.others",
        old="digest(hit, group_by=group_by, one_version=one_version) not in self.digests",
        new="hit is not None",
        tests=("tests/unit/pipeline/query/test_pages.py",),
    ),
    Mutation(
        "the time range of a page counts from its own request",
        function="pipeline.query.pages.open_page",
        old="position.now_ms",
        new="now_ms",
        tests=("tests/unit/pipeline/query/test_pages.py",),
    ),
    Mutation(
        "a query worker believes its own mode",
        function="consumers.wiring.modes.mode_stamped",
        old="named or mode_of(settings)",
        new="mode_of(settings)",
        tests=("tests/unit/consumers/wiring/test_searches.py",),
    ),
    Mutation(
        "a part of a batch lets go of the keys of all parts",
        function="pipeline.store.writing.protocol.decisions.WritePlan.cut.part",
        old="[key for key in self.in_flight if (key in keys) is is_later]",
        new="list(self.in_flight)",
        tests=("tests/property/test_cutting.py", MACHINE),
    ),
    Mutation(
        "a folded record is in another part than the one of its key",
        function="pipeline.ingest.cutting._cut_at",
        old="later |= {operation.position for operation in decoded.folded if operation.key in keys}",
        new="pass",
        tests=("tests/property/test_cutting.py", "tests/unit/pipeline/ingest/test_embed.py"),
    ),
    Mutation(
        "a batch has no numbers for its parts",
        function="pipeline.ingest.ownership.in_flight.BatchesInFlight.open",
        old="max(1, len(records))",
        new="1",
        tests=("tests/unit/pipeline/ingest/ownership/test_partition_fencing.py", "tests/property/test_cutting.py"),
    ),
    Mutation(
        "a filter may leave the restriction to a tenant",
        function="pipeline.query.tenancy.within_tenant",
        old='f"({term}) and ({expression})"',
        new='f"{term} and {expression}"',
        tests=("tests/unit/pipeline/query/test_tenancy.py", "tests/property/test_tenants.py"),
    ),
    Mutation(
        "the sample of metadata names crosses tenants",
        function="pipeline.query.candidates.CandidateSearch.sample",
        old="within_tenant(self.plan.tenant_term, except_canaries(expression))",
        new="expression",
        tests=("tests/unit/pipeline/query/test_tenancy.py",),
    ),
    Mutation(
        "a key is recognised by its id alone",
        function="consumers.query.access.keys.matches",
        old="hmac.compare_digest(_digest(text), stored) and key is not None",
        new="key is not None",
        tests=("tests/unit/consumers/query/access/test_keys.py",),
    ),
    Mutation(
        "a query worker without keys listens to everybody",
        function="consumers.wiring.access.query_access",
        old='auth.mode != "none"',
        new="False",
        tests=("tests/unit/consumers/wiring/test_access.py",),
    ),
    Mutation(
        "the opposite of a condition leaves out rows without the field",
        function="pipeline.query.request.metadata_expressions.MetadataField._unless",
        old='f"((not {self.exists}) or {otherwise})"',
        new="otherwise",
        tests=("tests/unit/pipeline/query/request/test_filter_expressions.py",),
    ),
    Mutation(
        "a document is found by its id whatever the filter says",
        function="pipeline.query.id_retriever.IdRetriever.retrieve",
        old='f"({rows.expression}) and {among}" if rows.expression else among',
        new="among",
        tests=("tests/unit/pipeline/query/test_id_retriever.py",),
    ),
    Mutation(
        "a collection is created with words that its server cannot match",
        function="pipeline.store.collection.keywords.check_keywords",
        old="settings.enable_match and not capabilities.text_match",
        new="False",
        tests=("tests/unit/pipeline/store/collection/test_keywords.py",),
    ),
    Mutation(
        "another collection's name is answered by this one",
        function="consumers.query.routes.openai_search.add_vector_store_search.search",
        old="vector_store_id != searches.service.collection",
        new="False",
        tests=("tests/unit/consumers/query/routes/test_openai_search.py",),
    ),
    Mutation(
        "a tool takes any argument",
        function="consumers.query.mcp.tools.Tools.call",
        old="[key for key in arguments if key not in known]",
        new="[key for key in arguments if key is None]",
        tests=("tests/unit/consumers/query/mcp/test_tools.py",),
    ),
    Mutation(
        "metadata of every tenant is described",
        function="pipeline.query.description._sample",
        old='within_tenant(tenant_term(tenant, fields), except_canaries("chunk == 0"))',
        new='except_canaries("chunk == 0")',
        tests=("tests/unit/consumers/query/mcp/test_tools.py",),
    ),
    Mutation(
        "the negation of an ordering is its opposite",
        function="consumers.query.pathway_filter._negated",
        old="kind not in _NEGATED",
        new="False",
        tests=("tests/unit/consumers/query/test_pathway_filter.py",),
    ),
    Mutation(
        "a search does not wait for the last record committed",
        function="pipeline.query.freshness.waiting.behind",
        old="at <= one.offset",
        new="at < one.offset",
        tests=("tests/unit/pipeline/query/freshness/test_waiting.py",),
    ),
    Mutation(
        "a search that has waited reads what is visible",
        function="pipeline.query.request.freshness.FreshnessOptions.strong",
        old='self.level == "strong" or bool(self.wait_for)',
        new='self.level == "strong"',
        tests=("tests/unit/pipeline/query/freshness/test_strong_searches.py",),
    ),
    Mutation(
        "a commit for a collection that was dropped counts",
        function="consumers.wiring.freshness.OwnCollection.is_it",
        old="return collection_id == self._id",
        new="return True",
        tests=("tests/unit/consumers/wiring/test_freshness.py",),
    ),
    Mutation(
        "searches show canaries",
        function="pipeline.query.candidates.CandidateSearch.ranked",
        old="without_canaries(hits)",
        new="hits",
        tests=("tests/unit/pipeline/query/test_canary_rows.py",),
    ),
    Mutation(
        "a document is shown with rows of another record",
        function="pipeline.query.documents.current.CurrentVersions._version",
        old="position_in(found) != written_at(entry)",
        new="False",
        tests=("tests/unit/pipeline/query/documents/test_reader.py",),
    ),
    Mutation(
        "a half-written document is shown as the version before",
        function="pipeline.query.documents.current.CurrentVersion.whole",
        old="self.joined is not None and self.joined.exact",
        new="self.joined is not None",
        tests=("tests/unit/pipeline/query/documents/test_reader.py",),
    ),
    Mutation(
        "a caller of one tenant reads the document of another",
        function="pipeline.query.documents.service._permitted",
        old="wanted if tenant is None else tenant",
        new="wanted",
        tests=("tests/unit/consumers/query/test_documents.py",),
    ),
    Mutation(
        "similar documents are those of every tenant",
        function="pipeline.query.documents.service.DocumentService._similar",
        old="self._searches.searcher.search(request.search, likened.vectors, left_s, now_ms=arrived_ms, "
        "tenant=tenant, besides=likened.others())",
        new="self._searches.searcher.search(request.search, likened.vectors, left_s, now_ms=arrived_ms, "
        "besides=likened.others())",
        tests=("tests/unit/consumers/query/test_documents.py",),
    ),
    Mutation(
        "a key leads to wherever an address says",
        function="consumers.query.web.keys._local",
        old="parts.path not in PAGES",
        new="False",
        tests=("tests/unit/consumers/query/web/test_keys.py",),
    ),
    Mutation(
        "a page that another web site can make search",
        function="consumers.query.origins.from_elsewhere",
        old='request.headers.get("sec-fetch-dest") != "document"',
        new="False",
        tests=("tests/unit/consumers/query/web/test_page.py",),
    ),
    Mutation(
        "a page that shows one tenant the rows of all",
        function="consumers.query.web.parts.sees_counts",
        old="caller.tenant is None",
        new="True",
        tests=("tests/unit/consumers/query/web/test_keys.py",),
    ),
    Mutation(
        "threads make the first pass of a process",
        function="pipeline.embedding.engine.openvino_passes.OpenVinoPasses.__init__",
        old="pass_once(compiled, inputs, padding_id)",
        new="None",
        tests=("tests/unit/pipeline/embedding/engine/test_openvino_passes.py",),
    ),
    Mutation(
        "a reranker's answer with an index twice orders results",
        function="consumers.query.rerank_endpoint.scores_of",
        old="index in scores",
        new="False",
        tests=("tests/unit/consumers/query/test_rerank_endpoint.py",),
    ),
    Mutation(
        "the key of a reranker on this machine goes through a proxy",
        function="consumers.clients.http_client.http_client",
        old="dict.fromkeys(direct)",
        new="{}",
        tests=("tests/unit/consumers/query/test_rerank_endpoint.py",),
    ),
    Mutation(
        "a query worker that closes waits for its reranker's server",
        function="consumers.query.rerank_endpoint.RerankEndpoint._end",
        old="task.cancel()",
        new="pass",
        tests=("tests/unit/consumers/query/test_rerank_endpoint.py",),
    ),
    Mutation(
        "reading the candidates of a reranker takes all the time of a search",
        function="pipeline.query.rerank.step.RerankStep._scored",
        old="replace(search, deadline=now + budget_s)",
        new="search",
        tests=("tests/unit/pipeline/query/rerank/test_step.py",),
    ),
    Mutation(
        "a reranker is waited for beyond its places",
        function="pipeline.query.rerank.step.Reranking.place",
        old="not self._places.acquire(blocking=False)",
        new="not self._places.acquire()",
        tests=("tests/unit/pipeline/query/rerank/test_step.py",),
    ),
    Mutation(
        "pages end where the candidates of a reranked one do",
        function="pipeline.query.search.Searcher._search",
        old="candidates.more or not shown.whole or cut",
        new="candidates.more or not shown.whole",
        tests=("tests/unit/pipeline/query/rerank/test_service.py",),
    ),
    Mutation(
        "a first start of a query worker loads what embeds documents, and keeps it",
        function="pipeline.embedding.engine.model_embedder.ModelEmbedder.embed_few",
        old="self._queries.get()",
        new="self._documents.get()",
        tests=("tests/unit/pipeline/embedding/loading/test_load.py",),
    ),
    Mutation(
        "a client's own vector has the relevance of a query",
        function="pipeline.query.result_rows.read_results",
        old="request.vector is None and any(request.queries)",
        new="True",
        tests=("tests/unit/pipeline/query/test_relevance.py",),
    ),
    Mutation(
        "a command that reads an answer of any size",
        function="consumers.clients.http_client.at_most",
        old="len(content) > most_bytes",
        new="False",
        tests=("tests/unit/consumers/clients/test_query_worker.py",),
    ),
    Mutation(
        "fields for LlamaIndex that make Milvus refuse the row",
        function="pipeline.store.writing.llama_nodes.node_maker",
        old="fields if size <= MAX_METADATA_BYTES else None",
        new="fields",
        tests=("tests/unit/pipeline/store/writing/test_llama_nodes.py",),
    ),
    Mutation(
        "a replay that leaves old rows without the fields of LlamaIndex",
        function="pipeline.store.writing.upsert_writer.UpsertWriter.__init__",
        old="with_nodes(fingerprint) if nodes else fingerprint",
        new="fingerprint",
        tests=("tests/unit/pipeline/store/writing/test_llama_nodes.py",),
    ),
    Mutation(
        "every request finds out by itself that Milvus is away",
        function="pipeline.store.milvus.reachability.Reachability._leave",
        old="new = self._away_since is None",
        new="new = False",
        tests=("tests/unit/pipeline/store/milvus/test_reachability.py",),
    ),
    Mutation(
        "a Milvus that is back stays away",
        function="pipeline.store.milvus.reachability.Reachability.answered",
        old="since, self._away_since = self._away_since, None",
        new="since = self._away_since",
        tests=("tests/unit/pipeline/store/milvus/test_reachability.py",),
    ),
    Mutation(
        "a bomb is unpacked whole",
        function="consumers.query.encoding._Unpacking._unpack",
        old="self._unpacker.decompress(self._packed, PIECE_BYTES)",
        new="self._unpacker.decompress(self._packed)",
        tests=("tests/unit/consumers/query/test_encoding.py",),
    ),
    Mutation(
        "who waits for a client to leave reads empty pieces of its packed body for ever",
        function="consumers.query.encoding._Unpacking.__call__",
        old="if self._read:\n    return await self._receive()",
        new="pass",
        tests=("tests/unit/consumers/query/test_encoding.py",),
    ),
    Mutation(
        "numbers in quotes pass for an answer of a query worker",
        function="consumers.clients.query_worker.QueryWorker._checked_answer",
        old="form.validate_json(content, strict=True)",
        new="form.validate_json(content)",
        tests=("tests/unit/consumers/clients/test_query_worker.py",),
    ),
    Mutation(
        "a released ledger makes a 503 of every timeout",
        function="pipeline.store.milvus.reachability.Reachability.check_serving",
        old="call.collection in (None, collection)",
        new="True",
        tests=("tests/unit/pipeline/store/milvus/test_reachability.py",),
    ),
    Mutation(
        "every web site may read the API",
        function="consumers.query.origins.Origins.allow",
        old='origin is not None and ("*" in self.allowed or origin in self.allowed)',
        new="origin is not None",
        tests=("tests/unit/consumers/query/test_origins.py",),
    ),
)
