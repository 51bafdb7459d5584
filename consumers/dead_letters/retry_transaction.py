"""Putting records back into the topics they came from, exactly once: each with a note of it, in one transaction.

The notes stand in a topic beside the dead-letter topic. Committed offsets could not do it: a group's offsets expire,
and with filters letters are put back in any order.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from kafka import KafkaProducer
from kafka.errors import (
    InvalidProducerEpochError,
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerFencedError,
    RecordListTooLargeError,
    TopicAlreadyExistsError,
)
from kafka.protocol.consumer import OffsetSpec

from consumers.kafka.admin import existing_topics
from consumers.kafka.connection import KafkaSettings, kafka_errors, open_admin, open_producer, translated
from consumers.kafka.reader import read_range
from consumers.kafka.sending import NullableKey, hand_over
from consumers.replay.range import offsets
from pipeline import failpoints
from pipeline.errors import MilvusStreamError, Stopped, Unavailable, UsageError
from pipeline.records import KafkaPartition, Position

_TRANSACTION_S = 30
"""Longest a transaction may be open. After a crash the topics' readers wait for its end, or for the next run."""
_COMMIT_S = 60.0
_LARGEST_REQUEST = 64 * 2**20
"""The topic decides what is too large, not the client."""
_REFUSALS = (InvalidRecordError, InvalidTimestampError, MessageSizeTooLargeError, RecordListTooLargeError)
_FENCED = (InvalidProducerEpochError, ProducerFencedError)


@dataclass(frozen=True, slots=True)
class RetryRecord:
    """A record to be put back."""

    letter_id: str
    """The same for every letter about the same record."""
    origin: Position
    partition: int | None
    """Of the topic in `origin`; None: by the key."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int


class RetryLog:
    """What was put back so far, as far as it was read."""

    def __init__(self, settings: KafkaSettings, dead_letter_topic: str) -> None:
        self._settings = settings
        self._topic = notes_topic(dead_letter_topic)
        self._position: dict[KafkaPartition, int] = {}
        self.letter_ids: set[str] = set()
        self.moved: dict[Position, Position] = {}
        """Where a record stands that was put back -> where it came from."""

    def read(self) -> None:
        """Take in what is new; nothing where nothing was ever put back. Raises Unavailable, UsageError."""
        with closing(open_admin(self._settings)) as admin, kafka_errors("the list of topics"):
            present = self._topic in admin.list_topics()
        if present:
            ranges = stable_ranges(self._settings, [self._topic])
            left = {name: (self._position.get(name, start), end) for name, (start, end) in ranges.items()}
            for record in read_range(self._settings, left):
                told = json.loads(record.value or b"{}")
                self.letter_ids.add((record.key or b"").decode())
                self.moved[_position(told["to"])] = _position(told["origin"])
            self._position = {name: end for name, (_, end) in left.items()}


def notes_topic(dead_letter_topic: str) -> str:
    """Name of the topic with the notes."""
    return f"{dead_letter_topic}.retried"


def stable_ranges(settings: KafkaSettings, topics: Sequence[str]) -> dict[KafkaPartition, tuple[int, int]]:
    """First offset held and end offset of every Kafka partition, up to the first transaction that is still open.

    Raises UsageError for a missing topic, Unavailable.
    """
    with closing(open_admin(settings)) as admin:
        names = [(topic, n) for topic, info in existing_topics(admin, topics).items() for n in range(info.partitions)]
        with kafka_errors("the first and last offsets of the topics"):
            starts, ends = (offsets(admin, names, spec) for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST))
    return {name: (starts[name], ends[name]) for name in names}


def ensure_notes_topic(settings: KafkaSettings, dead_letter_topic: str, *, create: bool) -> None:
    """Make sure that there is a place for the notes. Raises UsageError where it may not be created, Unavailable."""
    name = notes_topic(dead_letter_topic)
    with closing(open_admin(settings)) as admin, kafka_errors(f"the topic {name}"):
        if name in admin.list_topics():
            return
        if not create:
            raise UsageError(
                f"the topic {name}, in which `dlq retry` notes what it put back, does not exist and "
                "kafka.create_dead_letter_topic is false: create it (1 partition, cleanup.policy=compact)"
            )
        # Compacted, so that no retention forgets a note; each has a key of its own.
        spec = {"num_partitions": 1, "configs": {"cleanup.policy": "compact"}}
        with suppress(TopicAlreadyExistsError):
            admin.create_topics({name: spec}, wait_for_metadata=True)


class RetryProducer:
    """Sends records and notes in transactions; of two at a time the one that was opened first ends with an error.

    Opening settles what an earlier run left open, or another one has under way, and reads the notes after that: they
    are complete, because nobody else can note anything without making this one fail.
    """

    def __init__(self, settings: KafkaSettings, dead_letter_topic: str, notes: RetryLog) -> None:
        self._settings = settings
        self._topic = notes_topic(dead_letter_topic)
        self._known = notes
        self._producer: KafkaProducer | None = None

    def __enter__(self) -> Self:
        """Raises Unavailable, UsageError."""
        self._opened()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what was not committed is undone."""
        self._close()

    def send(self, returns: Sequence[RetryRecord]) -> tuple[dict[str, Position], dict[str, str]]:
        """Put back what was not put back yet: (where each record stands, why its topic refused it), by `letter_id`.

        Raises Unavailable (whether the transaction took place is settled by the next opening), UsageError (a missing
        right), Stopped when another run has taken over.
        """
        try:
            producer = self._opened()
            returns = [each for each in returns if each.letter_id not in self._known.letter_ids]
            placed, refusal = self._attempt(producer, returns) if returns else ({}, None)
        except KafkaError as error:
            self._close()
            if isinstance(error, _FENCED):
                raise Stopped(
                    "another `dlq retry` has begun with the same dead-letter topic and goes on alone; the batch "
                    "under way here was not put back"
                ) from error
            raise translated(error, f"a transaction that puts records back (notes in {self._topic})") from error
        if refusal is None:
            return placed, {}
        self._close()  # aborts; and a refused record poisons its producer, so that the others' answers say nothing
        if len(returns) == 1:
            return {}, {returns[0].letter_id: refusal}
        middle = len(returns) // 2
        halves = [self.send(half) for half in (returns[:middle], returns[middle:])]
        return halves[0][0] | halves[1][0], halves[0][1] | halves[1][1]

    def _attempt(
        self, producer: KafkaProducer, returns: Sequence[RetryRecord]
    ) -> tuple[dict[str, Position], str | None]:
        """One transaction: where the records stand, or why one of them was refused; then it is not committed."""
        producer.begin_transaction()
        futures: dict[str, Any] = {}
        for each in returns:
            try:
                futures[each.letter_id] = hand_over(
                    producer,
                    each.origin.topic,
                    each.key,
                    each.value,
                    headers=each.headers,
                    timestamp_ms=each.timestamp_ms,
                    partition=each.partition,
                )
            except _REFUSALS as error:
                return {}, _why(error)
        placed, failures = {}, []
        for letter_id, future in futures.items():
            try:
                sent = future.get()
                placed[letter_id] = Position(sent.topic, sent.partition, sent.offset)
            except KafkaError as error:
                failures.append(error)
        failpoints.hit("retry_sent")
        # Behind a refused record good ones fail, too, with other errors.
        refusals = [failure for failure in failures if isinstance(failure, _REFUSALS)]
        if refusals:
            return {}, _why(refusals[0])
        if failures:
            raise failures[0]
        self._note(producer, returns, placed)
        failpoints.hit("retry_noted")
        _in_time(producer.commit_transaction)
        failpoints.hit("retry_committed")
        for each in returns:
            self._known.letter_ids.add(each.letter_id)
            self._known.moved[placed[each.letter_id]] = each.origin
        return placed, None

    def _note(self, producer: KafkaProducer, returns: Sequence[RetryRecord], placed: Mapping[str, Position]) -> None:
        futures = []
        for each in returns:
            value = {"origin": _name(each.origin), "to": _name(placed[each.letter_id])}
            futures.append(
                hand_over(
                    producer,
                    self._topic,
                    each.letter_id.encode(),
                    json.dumps(value).encode(),
                    headers=(),
                    timestamp_ms=-1,
                )
            )
        for future in futures:
            future.get()

    def _opened(self) -> KafkaProducer:
        if self._producer is None:
            producer = open_producer(
                self._settings,
                key_serializer=NullableKey(),
                transactional_id=self._topic,
                transaction_timeout_ms=_TRANSACTION_S * 1000,
                enable_idempotence=True,
                max_request_size=_LARGEST_REQUEST,
                linger_ms=5,
            )
            self._producer = producer
            try:
                with kafka_errors(f"transactions (transactional id {self._topic})"):
                    producer.init_transactions()
                self._known.read()
            except MilvusStreamError:
                self._close()
                raise
        return self._producer

    def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError):
                producer.close(timeout=0)


def _in_time(commit: Callable[[], None]) -> None:
    """kafka-python waits for the end of a transaction without a limit."""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            commit()
        except BaseException as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=run, name="commit-transaction", daemon=True)
    thread.start()
    thread.join(_COMMIT_S)
    if not outcome:
        raise Unavailable(
            f"Kafka has not answered the commit of a transaction for {_COMMIT_S:.0f} s; start `dlq retry` again: it "
            "finds out whether these records were put back"
        )
    if outcome[0] is not None:
        raise outcome[0]


def _why(error: KafkaError) -> str:
    return f"{type(error).__name__}: {error}"


def _name(position: Position) -> str:
    return "/".join(map(str, position))


def _position(name: str) -> Position:
    topic, partition, offset = name.split("/")
    return Position(topic, int(partition), int(offset))
