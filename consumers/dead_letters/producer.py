"""The delivery of rejected records to the dead-letter topic: each one is confirmed, and retried until it is."""

import os
import random
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any

import structlog
from kafka import KafkaProducer
from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from typing_extensions import override

from consumers.dead_letters.earlier import EarlierDeadLetters, newest_dead_letters
from consumers.dead_letters.envelope import OutgoingDeadLetter, encode_dead_letter, fitted, retimed
from consumers.kafka import KafkaSettings
from consumers.kafka.client.connection import open_admin, open_producer
from consumers.kafka.client.errors import error_text, kafka_errors, translated
from consumers.kafka.producing.sending import NullableKey, send_record
from consumers.kafka.topics.admin import message_limit
from pipeline import failpoints
from pipeline.backoff import Backoff
from pipeline.errors import MilvusStreamError, Stopped
from pipeline.ingest import DeadLetterChannel
from pipeline.records import Position, Receipt, Rejected

log = structlog.get_logger(__name__)

_SMALLEST_LIMIT = 2_048
_LAST_JOIN_S = 1.0


@dataclass(frozen=True, slots=True)
class DeadLetterPolicy:
    """How dead letters are sent."""

    buffer_bytes: int = 16 * 2**20
    """Above this many waiting bytes `has_room` is False and the worker pauses Kafka."""
    window: int = 500
    """Dead letters sent before their answers are awaited."""
    backoff: Backoff = Backoff(first_s=0.5, cap_s=30.0)  # noqa: RUF009 - frozen


class DeadLetterProducer(DeadLetterChannel):
    """A DeadLetterChannel on kafka-python, with a thread of its own.

    Every dead letter is confirmed by all in-sync replicas. An outage or a missing right is retried and never skipped,
    so only the offsets of these records are held back. A record that is read again is not sent again where the topic
    has its dead letter; a retry after an unknown outcome can write one twice.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        *,
        on_confirmed: Callable[[Receipt], None],
        on_sent: Callable[[str], None] = lambda _: None,
        policy: DeadLetterPolicy | None = None,
    ) -> None:
        """Headers name `settings.group_id` as the pipeline. Both functions are called on the sending thread.

        `on_sent` gets the reason of each dead letter that was written and confirmed.
        """
        self._settings = settings
        self._topic = topic
        self._on_confirmed = on_confirmed
        self._on_sent = on_sent
        self._policy = policy or DeadLetterPolicy()
        self._worker = f"{socket.gethostname()}-{os.getpid()}"
        self._waiting: deque[OutgoingDeadLetter] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._closing = False
        self._assigned = True
        self._problem: str | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dead-letters", daemon=True)

    @override
    def start(self) -> None:
        self._thread.start()

    @override
    def send(self, rejected: Rejected) -> None:
        dead_letter = encode_dead_letter(rejected, pipeline=self._settings.group_id, worker=self._worker)
        with self._changed:
            self._waiting.append(dead_letter)
            self._waiting_bytes += dead_letter.size
            self._changed.notify_all()

    @override
    def assigned(self) -> None:
        self._assigned = True

    @property
    @override
    def has_room(self) -> bool:
        return self._waiting_bytes <= self._policy.buffer_bytes

    @property
    @override
    def problem(self) -> str | None:
        return self._problem

    @override
    def check(self) -> None:
        if self._failure is not None:
            raise Stopped(f"the dead-letter thread has stopped: {self._failure}") from self._failure

    @override
    def close(self, timeout_s: float) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._ending.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(_LAST_JOIN_S)

    def _run(self) -> None:
        try:
            outbox = _Outbox(self._settings, self._topic)
            earlier = EarlierDeadLetters(partial(newest_dead_letters, self._settings, self._topic))
            try:
                while window := self._next_window():
                    self._deliver(outbox, earlier, window)
            finally:
                outbox.close()
        except BaseException as error:
            self._failure = error

    def _next_window(self) -> Sequence[OutgoingDeadLetter]:
        """Wait for dead letters; empty when the delivery ends. A record that was read again gets one in a window."""
        with self._changed:
            while not self._waiting and not self._closing and not self._ending.is_set():
                self._changed.wait()
            if self._ending.is_set():
                return []
            window: dict[Position, OutgoingDeadLetter] = {}
            for dead_letter in islice(self._waiting, self._policy.window):
                if dead_letter.position in window:
                    break
                window[dead_letter.position] = dead_letter
            return list(window.values())

    def _deliver(self, outbox: "_Outbox", earlier: EarlierDeadLetters, window: Sequence[OutgoingDeadLetter]) -> None:
        """Send until every dead letter of the window is confirmed or the delivery ends."""
        failures = 0
        unsent = window
        whole = {dead_letter.position: dead_letter for dead_letter in window}  # before any change of its timestamp
        while unsent and not self._ending.is_set():
            problem: str | None = None
            try:
                unsent = self._confirm_earlier(earlier, unsent)
                failpoints.hit("dead_letter_unsent")
                confirmed, unsent = outbox.send(unsent)
                failpoints.hit("dead_letter_sent")
                problem = outbox.refusal
            except MilvusStreamError as error:
                confirmed, problem = [], str(error)
            for dead_letter in confirmed:
                earlier.confirmed(whole[dead_letter.position])
                self._on_sent(dead_letter.reason)
                failures = 0
            self._confirm(confirmed)
            self._set_problem(problem if unsent else None)
            if unsent:
                failures += 1
                self._ending.wait(self._policy.backoff.delay_s(failures, random.random()))  # noqa: S311 - jitter
        if not unsent:
            with self._changed:
                for dead_letter in window:
                    self._waiting.popleft()
                    self._waiting_bytes -= dead_letter.size

    def _confirm_earlier(
        self, earlier: EarlierDeadLetters, unsent: Sequence[OutgoingDeadLetter]
    ) -> Sequence[OutgoingDeadLetter]:
        """Confirm what the topic has already; returns the rest."""
        if self._assigned:
            self._assigned = False  # before the topic is read, so that an assignment in between is not missed
            earlier.assigned()
        new = []
        for dead_letter in unsent:
            if earlier.holds(dead_letter):
                self._confirm([dead_letter])
            else:
                new.append(dead_letter)
        return new

    def _confirm(self, dead_letters: Sequence[OutgoingDeadLetter]) -> None:
        for batch, of_batch in groupby(dead_letters, key=lambda dead_letter: dead_letter.batch):
            self._on_confirmed(Receipt([dead_letter.position for dead_letter in of_batch], batch))

    def _set_problem(self, problem: str | None) -> None:
        if problem is not None and self._problem is None:
            log.warning("dead_letters.unavailable", topic=self._topic, why=problem, what="it is retried")
        elif problem is None and self._problem is not None:
            log.info("dead_letters.available", topic=self._topic)
        self._problem = problem


class _Outbox:
    """A producer that is opened when needed and closed after a failure."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._producer: KafkaProducer | None = None
        self._topic_limit = 0
        """The topic's limit in bytes when it was read last."""
        self._limit = 0
        """The limit in use: lower if the topic refused a dead letter all the same."""
        self._refused: set[Position] = set()
        """Records whose dead letters the topic refused even with the time of sending: each is sent alone."""
        self.refusal: str | None = None
        """Why the last send left dead letters unconfirmed."""

    def send(
        self, dead_letters: Sequence[OutgoingDeadLetter]
    ) -> tuple[Sequence[OutgoingDeadLetter], Sequence[OutgoingDeadLetter]]:
        """Send; returns (confirmed, to be retried). Raises Unavailable or UsageError if nothing could be sent."""
        self.refusal = None
        alone = [[dead_letter] for dead_letter in dead_letters if dead_letter.position in self._refused]
        together = [dead_letter for dead_letter in dead_letters if dead_letter.position not in self._refused]
        confirmed: list[OutgoingDeadLetter] = []
        unsent: list[OutgoingDeadLetter] = []
        # A refused record makes the broker refuse the other records of its batch, too.
        batches = [batch for batch in (together, *alone) if batch]
        for number, batch in enumerate(batches):
            try:
                batch_confirmed, batch_unsent = self._send_batch(batch)
            except MilvusStreamError as error:
                if not confirmed:
                    raise
                self.refusal = str(error)
                unsent += [dead_letter for remaining in batches[number:] for dead_letter in remaining]
                break
            confirmed += batch_confirmed
            unsent += batch_unsent
        self._refused -= {dead_letter.position for dead_letter in confirmed}
        return confirmed, unsent

    def _send_batch(
        self, dead_letters: Sequence[OutgoingDeadLetter]
    ) -> tuple[list[OutgoingDeadLetter], list[OutgoingDeadLetter]]:
        producer = self._opened(dead_letters)
        try:
            # Confirmed by the futures: flush() can fail for delivered dead letters, and the other way round.
            futures = [
                (dead_letter, self._send_one(producer, fitted(dead_letter, self._limit)))
                for dead_letter in dead_letters
            ]
        except (KafkaError, OSError) as error:
            self.close()
            raise translated(error, f"the dead-letter topic {self._topic}") from error
        confirmed, unsent = [], []
        too_large = False
        for dead_letter, future in futures:
            failure = _outcome(future)
            if failure is None:
                confirmed.append(dead_letter)
                continue
            unsent.append(self._next_attempt(dead_letter, failure))
            too_large = too_large or isinstance(failure, MessageSizeTooLargeError | RecordListTooLargeError)
        if too_large:  # if the topic's limit was lowered, the next opening reads it
            self._limit = max(self._limit // 2, _SMALLEST_LIMIT)
        if unsent:
            self.close()
        return confirmed, unsent

    def _next_attempt(self, dead_letter: OutgoingDeadLetter, failure: KafkaError) -> OutgoingDeadLetter:
        """Return the dead letter to send after a failure: with the time of sending if its timestamp was refused."""
        why = error_text(failure)
        # kafka-python has two errors for a refused timestamp: the second is for several of them in a batch.
        if not isinstance(failure, InvalidTimestampError | InvalidRecordError):
            self.refusal = self.refusal or why
            return dead_letter
        if dead_letter.timestamp_ms < 0:
            self._refused.add(dead_letter.position)
            self.refusal = (
                f"{self._topic} refuses the dead letter of {'/'.join(map(str, dead_letter.position))} even with the "
                f"time of sending: {why}. Check the topic's cleanup.policy and message.timestamp.*"
            )
        else:
            self.refusal = self.refusal or why
        return retimed(dead_letter)

    def close(self) -> None:
        """Close the producer without waiting for anything."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError):  # it flushes first, and raises if that fails
                producer.close(timeout=0)

    def _opened(self, dead_letters: Sequence[OutgoingDeadLetter]) -> KafkaProducer:
        if any(dead_letter.size > self._limit for dead_letter in dead_letters):
            self.close()  # the topic's limit is read again before a dead letter is cut
        if self._producer is None:
            with closing(open_admin(self._settings)) as admin, kafka_errors(f"the dead-letter topic {self._topic}"):
                topic_limit = message_limit(admin, self._topic)
            if topic_limit != self._topic_limit:
                self._topic_limit = self._limit = topic_limit
            self._producer = open_producer(
                self._settings,
                key_serializer=NullableKey(),
                max_request_size=max(topic_limit, 2**20),
                batch_size=min(topic_limit, 2**14),
                linger_ms=5,
            )
        return self._producer

    def _send_one(self, producer: KafkaProducer, dead_letter: OutgoingDeadLetter) -> Any:
        return send_record(
            producer,
            self._topic,
            dead_letter.key,
            dead_letter.value,
            headers=dead_letter.headers,
            timestamp_ms=dead_letter.timestamp_ms,
        )


def _outcome(future: Any) -> KafkaError | None:
    """Wait for the broker's answer; the producer's delivery timeout bounds the wait."""
    try:
        future.get()
    except KafkaError as error:
        failure: KafkaError = error
        return failure
    return None
