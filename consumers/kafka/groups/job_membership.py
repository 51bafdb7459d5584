"""The membership of a job that writes a collection: of all such jobs one runs at a time.

Every job of a collection joins one Kafka group. The member that leads the group is the one that runs, and Kafka keeps
its leader until that leaves or its session is over. The others learn from the assignment who it is.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import orjson
import structlog
from kafka import KafkaConsumer
from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from kafka.errors import AuthorizationError, KafkaError, RetriableError
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from consumers.kafka.client.connection import KafkaSettings, open_consumer
from consumers.kafka.client.errors import error_text, translated
from consumers.kafka.client.internals import finish_join, follow_membership, last_beat, member_id
from consumers.kafka.client.lease_clock import NEVER, LeaseClock
from consumers.kafka.groups.group_watch import forget_group
from pipeline.errors import JobMembershipLost, MilvusStreamError
from pipeline.timestamps import format_time

log = structlog.get_logger(__name__)

_POLL_S = 0.2
_CLOSE_S = 5.0
_MARGIN_S = 5.0
"""Beyond the session of a former job: the time of the join itself."""


def job_group(group_id: str, collection: str) -> str:
    """Return the name of the group that the jobs join which write this collection with the topics of `group_id`."""
    return f"{group_id}.jobs.{collection}"


class JobMembership:
    """A member of the group of a collection's jobs, on a thread of its own.

    A membership that is lost is not taken up again: another job may have written since. Its last call must be over when
    it is closed, because the next job begins then.
    """

    def __init__(self, settings: KafkaSettings, collection: str, kind: str, *, clock: LeaseClock | None = None) -> None:
        """`settings`: those of the live group; `kind`: the job in words, for the error of the others."""
        self.group_id = job_group(settings.group_id, collection)
        self._collection = collection
        self._settings = _member_settings(settings, self.group_id)
        self._clock = clock or LeaseClock()
        self._token = str(uuid4())
        now = format_time(time.time_ns() // 10**9 * 1000)
        me = f"the {kind} of process {os.getpid()} on {socket.gethostname()}, begun {now}"
        self._identity = orjson.dumps({"token": self._token, "job": me})
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._consumer: KafkaConsumer | None = None
        self._thread: threading.Thread | None = None
        self._joining = NEVER
        self._member = ""
        """The id under which this job holds the collection."""
        self._holder: str | None = None
        """The job that holds it, as the last assignment says."""
        self._error: MilvusStreamError | None = None

    def join(
        self,
        stop: threading.Event | None = None,
        on_wait: Callable[[str, int, int], None] = lambda *_: None,
    ) -> bool:
        """Join; wait for a former job at most until its session is over. False if `stop` was set before.

        A job that was killed holds the collection for that long. `on_wait(why, seconds waited, most seconds)` is called
        once a second. Raises MilvusStreamError with the name of the job that still runs, UsageError, Unavailable.
        """
        self._consumer = consumer = open_consumer(self._settings, group=True, assignor=self._assignor())
        follow_membership(consumer, self._clock)
        consumer.subscribe(topics=list(self._settings.topics))
        self._thread = threading.Thread(target=self._run, args=(consumer,), name="kafka-job", daemon=True)
        self._thread.start()
        most_s = self._settings.session_timeout_ms / 1000 + _MARGIN_S
        began = time.monotonic()
        waiting_for = ""
        while not (stop is not None and stop.is_set()):
            with self._changed:
                self._changed.wait_for(lambda: self._member or self._error, timeout=1.0)
            if self._member or self._error:
                self.check()
                log.info("job.joined", group=self.group_id)
                return True
            waited_s = time.monotonic() - began
            if waited_s >= most_s:
                raise self._held(most_s)
            if waiting_for != (waiting_for := self._other()):
                log.info("job.waiting", group=self.group_id, holder=waiting_for, most_s=round(most_s - waited_s))
            on_wait(f"waiting for {waiting_for} (seconds)", int(waited_s), int(most_s))
        return False

    def check(self) -> None:
        """Raise MembershipLost if another job may hold the collection, or the error that ended the membership."""
        self._notice_loss()
        if self._error is not None:
            raise self._error

    def last_heartbeat(self) -> float:
        """Return the latest time of `suspend_clock` at which no other job could write the collection; -inf: unknown."""
        consumer = self._consumer
        if consumer is None or not self._member or self._error is not None:
            return float("-inf")
        beat = last_beat(consumer, self._joining)
        return self._clock.certain(beat) if member_id(consumer) == self._member else float("-inf")

    def left_s(self) -> float:
        """Return the seconds from now in which no other job can write the collection; not positive: no time."""
        return self.last_heartbeat() + self._settings.session_timeout_ms / 1000 - self._clock.now()

    def close(self) -> None:
        """Leave the group; the next job begins at once."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        if self._member and self._error is None:
            try:
                forget_group(self._settings, self.group_id)
            except MilvusStreamError as error:  # another job has joined, or no right: Kafka drops an empty group itself
                log.info("job.group_kept", group=self.group_id, why=str(error))

    # --- the thread of the membership --------------------------------------------------------------------------------

    def _run(self, consumer: KafkaConsumer) -> None:
        try:
            while not self._closing.is_set() and self._error is None:
                finish_join(consumer)
                self._poll(consumer)
                self._notice_loss()
        except Exception as error:  # the thread's edge
            self._fail(translated(error, f"the group {self.group_id}"))
        self._closing.wait()  # a request of this job may be under way, and the next job begins when this member leaves
        try:
            # Without a timeout it waits 30 s for a group that is in the middle of a rebalance.
            consumer.close(autocommit=False, timeout_ms=_CLOSE_S * 1000)
        except KafkaError as error:
            log.info("job.left_unannounced", group=self.group_id, why=error_text(error))

    def _poll(self, consumer: KafkaConsumer) -> None:
        try:
            consumer.poll(timeout_ms=_POLL_S * 1000)
        except KafkaError as error:
            if isinstance(error, AuthorizationError) or not isinstance(error, RetriableError):
                raise
            log.warning("job.poll_failed", why=error_text(error), what="it is retried")
            self._closing.wait(_POLL_S)

    def _notice_loss(self) -> None:
        consumer = self._consumer
        if self._member and consumer is not None and self._error is None and member_id(consumer) != self._member:
            self._fail(self._lost())

    def _fail(self, error: MilvusStreamError) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _on_join(self) -> None:
        self._joining = self._clock.beat()

    def _on_assigned(self, holder: bytes) -> None:
        """Note who leads the group; called on the client's IO thread."""
        identity = orjson.loads(holder)
        with self._changed:
            self._holder = str(identity["job"])
            if identity["token"] != self._token:
                if self._member:
                    self._error = self._error or self._lost()
            elif not self._member and self._consumer is not None:
                self._member = member_id(self._consumer)
            self._changed.notify_all()

    def _assignor(self) -> type[Any]:
        job = self

        class LeaderRuns(AbstractPartitionAssignor):  # type: ignore[misc]  # kafka-python ships no types
            """Assigns no Kafka partition to anybody, and the name of the leader to all."""

            name = "milvus-stream-job"

            def metadata(self, topics: Any) -> Any:
                job._on_join()
                return ConsumerProtocolSubscription(0, list(topics), job._identity)

            def assign(self, cluster: Any, members: Any) -> Any:
                return {member.member_id: ConsumerProtocolAssignment(0, [], job._identity) for member in members}

            def on_assignment(self, assignment: Any, generation: Any) -> None:
                job._on_assigned(bytes(assignment.user_data))

        return LeaderRuns

    # --- words -------------------------------------------------------------------------------------------------------

    def _other(self) -> str:
        return self._holder or "the session of a job that does not answer"

    def _held(self, waited_s: float) -> MilvusStreamError:
        return MilvusStreamError(
            f"{self._other()} holds the collection {self._collection} (a member of the Kafka group {self.group_id}); "
            f"it was waited for {waited_s:.0f} s (kafka.session_timeout and the join). One replay or repair writes a "
            "collection at a time: wait until it ends, or stop it, and start this one again"
        )

    def _lost(self) -> JobMembershipLost:
        return JobMembershipLost(
            f"this job is no member of the Kafka group {self.group_id} any more (its heartbeats were not answered for "
            f"kafka.session_timeout), so another job may write the collection {self._collection}. Nothing is written "
            "after that; start it again, and it goes on where it stopped"
        )


def _member_settings(settings: KafkaSettings, group_id: str) -> KafkaSettings:
    """The settings of a dynamic member: a static one would be replaced by a second job with the same configuration."""
    options = {name: value for name, value in settings.options.items() if name != "group_instance_id"}
    return replace(settings, group_id=group_id, options=options)
