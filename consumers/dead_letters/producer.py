"""Rejected records on their way to the dead-letter topic: confirmed one by one, retried until they are."""

import os
import random
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from kafka import KafkaProducer
from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from consumers.dead_letters.envelope import OutgoingDeadLetter, encode_dead_letter, fitted, retimed
from consumers.kafka.admin import message_limit
from consumers.kafka.connection import KafkaSettings, kafka_errors, open_admin, open_producer, translated
from consumers.kafka.sending import NullableKey, hand_over
from pipeline import failpoints
from pipeline.errors import MilvusStreamError, Stopped
from pipeline.records import Position, Receipt, Rejected

log = structlog.get_logger(__name__)

_SMALLEST_LIMIT = 2_048
_LAST_JOIN_S = 1.0


@dataclass(frozen=True, slots=True)
class DeadLetterPolicy:
    """How dead letters are sent."""

    room_bytes: int = 16 * 2**20
    """Above this many waiting bytes `has_room` is False and the worker pauses Kafka."""
    window: int = 500
    """Letters handed to the producer before their answers are waited for."""
    retry_delay_s: float = 0.5
    """First pause after a failure; doubles up to `retry_cap_s`, jittered."""
    retry_cap_s: float = 30.0


class DeadLetterTopic(Protocol):
    """Where rejected records go. A record counts as finished only after `on_confirmed` was called with its receipt."""

    def start(self) -> None:
        """Begin sending."""

    def send(self, rejected: Rejected) -> None:
        """Take charge of the record; never blocks."""

    @property
    def has_room(self) -> bool:
        """False: read no more until this is True again."""

    @property
    def problem(self) -> str | None:
        """Why nothing can be sent at the moment; None while all is well."""

    def check(self) -> None:
        """Raise Stopped if the sending thread has died."""

    def close(self, timeout_s: float) -> None:
        """Send what is waiting within the time, then stop; what is left is not confirmed."""


class DeadLetters:
    """DeadLetterTopic on kafka-python, with a thread of its own.

    Every letter is confirmed by all in-sync replicas; an outage or a missing right is waited out, never skipped, so
    only the offsets of these records stay where they are. A retry after an unknown outcome can write a letter twice.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        *,
        on_confirmed: Callable[[Receipt], None],
        policy: DeadLetterPolicy | None = None,
    ) -> None:
        """`on_confirmed` is called on the sending thread; `settings.group_id` names the pipeline in the letters."""
        self._settings = settings
        self._topic = topic
        self._on_confirmed = on_confirmed
        self._policy = policy or DeadLetterPolicy()
        self._worker = f"{socket.gethostname()}-{os.getpid()}"
        self._waiting: deque[OutgoingDeadLetter] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._closing = False
        self._problem: str | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dead-letters", daemon=True)

    def start(self) -> None:
        """See DeadLetterTopic.start."""
        self._thread.start()

    def send(self, rejected: Rejected) -> None:
        """See DeadLetterTopic.send."""
        made = encode_dead_letter(rejected, pipeline=self._settings.group_id, worker=self._worker)
        with self._changed:
            self._waiting.append(made)
            self._waiting_bytes += made.size
            self._changed.notify_all()

    @property
    def has_room(self) -> bool:
        """See DeadLetterTopic.has_room."""
        return self._waiting_bytes <= self._policy.room_bytes

    @property
    def problem(self) -> str | None:
        """See DeadLetterTopic.problem."""
        return self._problem

    def check(self) -> None:
        """See DeadLetterTopic.check."""
        if self._failure is not None:
            raise Stopped(f"the dead-letter thread has stopped: {self._failure}") from self._failure

    def close(self, timeout_s: float) -> None:
        """See DeadLetterTopic.close."""
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
            try:
                while window := self._next():
                    self._deliver(outbox, window)
            finally:
                outbox.close()
        except BaseException as error:
            self._failure = error

    def _next(self) -> list[OutgoingDeadLetter]:
        """The next letters; empty: the end."""
        with self._changed:
            while not self._waiting and not self._closing and not self._ending.is_set():
                self._changed.wait()
            if self._ending.is_set():
                return []
            return [self._waiting[i] for i in range(min(len(self._waiting), self._policy.window))]

    def _deliver(self, outbox: "_Outbox", window: list[OutgoingDeadLetter]) -> None:
        """Send until every one is confirmed or the end has come."""
        delay = self._policy.retry_delay_s
        left = window
        while left and not self._ending.is_set():
            failpoints.hit("dead_letter_unsent")
            try:
                confirmed, left = outbox.send(left)
                failpoints.hit("dead_letter_sent")
                problem = outbox.refusal
            except MilvusStreamError as error:
                confirmed, problem = [], str(error)
            if confirmed:
                self._on_confirmed(Receipt([made.position for made in confirmed]))
                delay = self._policy.retry_delay_s
            self._tell(problem if left else None)
            if left:
                self._ending.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
                delay = min(delay * 2, self._policy.retry_cap_s)
        if not left:
            with self._changed:
                for made in window:
                    self._waiting.popleft()
                    self._waiting_bytes -= made.size

    def _tell(self, problem: str | None) -> None:
        if problem is not None and self._problem is None:
            log.warning("dead_letters.unavailable", topic=self._topic, why=problem, what="waiting and trying again")
        elif problem is None and self._problem is not None:
            log.info("dead_letters.available", topic=self._topic)
        self._problem = problem


class _Outbox:
    """A producer that is opened when needed and thrown away after a failure."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._producer: KafkaProducer | None = None
        self._found = 0
        """What the topic said it takes when it was asked last."""
        self._limit = 0
        """What it takes: less than that where it refused a letter all the same."""
        self._refused: set[Position] = set()
        """Records whose dead letters the topic refused with the time of sending, too: each is sent by itself."""
        self.refusal: str | None = None
        """What the last send that left letters behind met."""

    def send(self, letters: list[OutgoingDeadLetter]) -> tuple[list[OutgoingDeadLetter], list[OutgoingDeadLetter]]:
        """Send; returns (confirmed, to be sent again). Raises Unavailable or UsageError when nothing could be sent."""
        self.refusal = None
        confirmed, left = self._send([made for made in letters if made.position not in self._refused])
        for made in letters:
            # In a batch with others a refused record would have them refused, too.
            if made.position in self._refused and made not in left:
                sent, again = self._send([made])
                confirmed, left = confirmed + sent, left + again
        self._refused -= {made.position for made in confirmed}
        return confirmed, left

    def _send(self, letters: list[OutgoingDeadLetter]) -> tuple[list[OutgoingDeadLetter], list[OutgoingDeadLetter]]:
        if not letters:
            return [], []
        producer = self._opened(letters)
        try:
            # Judged by the futures: flush() can fail for letters that were delivered, and the other way round.
            sent = [(made, self._hand_over(producer, fitted(made, self._limit))) for made in letters]
        except (KafkaError, OSError) as error:
            self.close()
            raise translated(error, f"the dead-letter topic {self._topic}") from error
        confirmed, left = [], []
        too_large = False
        for made, future in sent:
            failure = _outcome(future)
            if failure is None:
                confirmed.append(made)
                continue
            left.append(self._again(made, failure))
            too_large = too_large or isinstance(failure, MessageSizeTooLargeError | RecordListTooLargeError)
        if too_large:  # and if the topic takes less since it was asked, the next opening learns how much
            self._limit = max(self._limit // 2, _SMALLEST_LIMIT)
        if left:
            self.close()
        return confirmed, left

    def _again(self, made: OutgoingDeadLetter, failure: KafkaError) -> OutgoingDeadLetter:
        """What to send next instead of a dead letter that was not taken."""
        why = f"{type(failure).__name__}: {failure}"
        # For the same refusal of a timestamp kafka-python has two errors: the second where it met several in a batch.
        if not isinstance(failure, InvalidTimestampError | InvalidRecordError):
            self.refusal = self.refusal or why
            return made
        if made.timestamp_ms < 0:
            self._refused.add(made.position)
            self.refusal = (
                f"{self._topic} refuses the dead letter of {'/'.join(map(str, made.position))}, with the time of "
                f"sending, too: {why}. Look at the topic's cleanup.policy and message.timestamp.*"
            )
        else:
            self.refusal = self.refusal or why
        return retimed(made)

    def close(self) -> None:
        """Close the producer without waiting for anything."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError):  # it flushes first, and says so when that does not succeed
                producer.close(timeout=0)

    def _opened(self, letters: list[OutgoingDeadLetter]) -> KafkaProducer:
        if any(made.size > self._limit for made in letters):
            self.close()  # before a letter is cut, the topic is asked again how much it takes
        if self._producer is None:
            admin = open_admin(self._settings)
            try:
                with kafka_errors(f"the dead-letter topic {self._topic}"):
                    found = message_limit(admin, self._topic)
            finally:
                admin.close()
            if found != self._found:
                self._found = self._limit = found
            self._producer = open_producer(
                self._settings,
                key_serializer=NullableKey(),
                max_request_size=max(found, 2**20),
                batch_size=min(found, 2**14),
                linger_ms=5,
            )
        return self._producer

    def _hand_over(self, producer: KafkaProducer, made: OutgoingDeadLetter) -> Any:
        return hand_over(
            producer, self._topic, made.key, made.value, headers=made.headers, timestamp_ms=made.timestamp_ms
        )


def _outcome(future: Any) -> KafkaError | None:
    """Wait for the broker's answer; the producer's delivery timeout bounds it."""
    try:
        future.get()
    except KafkaError as error:
        failure: KafkaError = error
        return failure
    return None
