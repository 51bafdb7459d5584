"""Jobs of one collection on real Apache Kafka: one holds it, and nothing is written after its lease."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from consumers.kafka import GroupWatch, JobMembership, KafkaSettings, KafkaSource, LiveGroup, job_group, suspend_clock
from pipeline.errors import LeaseExpired, MembershipLost, MilvusStreamError
from tests.chaos.proxy import Fault, FaultProxy
from tests.chaos.servers import make_kafka
from tests.support.fakes.milvus import FakeMilvus
from tests.support.processes import running
from tests.support.rigs.kafka import Member, RealRig
from tests.support.stores import make_store
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers
SESSION_S = 3.0
HOLDING = """
import sys, time
from consumers.kafka import JobMembership, KafkaSettings
settings = KafkaSettings(sys.argv[1], (sys.argv[2],), sys.argv[3], session_timeout_ms=3000)
member = JobMembership(settings, "docs", "replay")
member.join()
print("joined", flush=True)
while True:
    time.sleep(0.05)
    member.check()
"""


@pytest.fixture
def rig(kafka_bootstrap: str) -> Iterator[RealRig]:
    real = RealRig(kafka_bootstrap)
    yield real
    real.close()


def member(settings: KafkaSettings, collection: str = "docs") -> closing[JobMembership]:
    return closing(JobMembership(settings, collection, "repair"))


@contextmanager
def closed_later(source: KafkaSource) -> Iterator[None]:
    try:
        yield
    finally:
        source.close(5)


def active(settings: KafkaSettings, group_id: str) -> bool:
    with closing(GroupWatch(settings, group_id)) as watch:
        return watch.active()


def test_a_second_job_waits_for_a_session_and_names_the_first_which_goes_on(rig: RealRig) -> None:
    settings = rig.settings(rig.topic())
    waits: list[tuple[str, int, int]] = []
    with closing(JobMembership(settings, "docs", "replay")) as first, member(settings) as second:
        first.join()
        with pytest.raises(
            MilvusStreamError, match=r"the replay of process \d+ on .* holds the collection docs"
        ) as held:
            second.join(on_wait=lambda *wait: waits.append(wait))
        assert held.value.exit_code == 1
        assert "start this one again" in str(held.value)
        assert second.last_heartbeat() == float("-inf")
        assert [total for _, _, total in waits] == [8] * len(waits)
        assert [done for _, done, _ in waits] == sorted({done for _, done, _ in waits}) != []
        assert all(why.startswith("waiting for the replay of process") for why, _, _ in waits)
        first.check()
        assert 0 < first.left_s() <= SESSION_S


def test_the_next_job_begins_when_the_first_has_left(rig: RealRig) -> None:
    settings = rig.settings(rig.topic())
    with member(settings) as second:
        with member(settings) as first:
            first.join()
            joining = threading.Thread(target=second.join)
            joining.start()
            eventually(lambda: second._holder, what="the name of the first")
        joining.join(5)
        assert 0 < second.left_s() <= SESSION_S
        second.check()


def test_jobs_of_two_collections_run_beside_each_other_and_leave_no_group(rig: RealRig) -> None:
    settings = rig.settings(rig.topic())
    with member(settings) as one, member(settings, "others") as other:
        one.join()
        other.join()
        assert min(one.left_s(), other.left_s()) > 0
        assert active(settings, job_group(settings.group_id, "others"))
        assert not active(settings, settings.group_id), "the live group knows nothing of it"
    assert not active(settings, job_group(settings.group_id, "others"))
    with closing(KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)) as admin:
        assert not any(group["group_id"].startswith(settings.group_id) for group in admin.list_groups())


def test_a_killed_job_holds_the_collection_for_the_rest_of_its_session(
    rig: RealRig, kafka_bootstrap: str, tmp_path: Path
) -> None:
    settings = rig.settings(rig.topic())
    arguments = ["-c", HOLDING, kafka_bootstrap, settings.topics[0], settings.group_id]
    with running(arguments, tmp_path / "killed.log") as killed, member(settings) as second:
        eventually(lambda: killed._lines.get(timeout=30) == "joined\n", within=60)
        killed.end(signal.SIGKILL)
        began = time.monotonic()
        second.join()
        assert time.monotonic() - began < SESSION_S + 5
        second.check()


def test_a_stopped_job_that_goes_on_later_is_lost(rig: RealRig, kafka_bootstrap: str, tmp_path: Path) -> None:
    settings = rig.settings(rig.topic())
    arguments = ["-c", HOLDING, kafka_bootstrap, settings.topics[0], settings.group_id]
    with running(arguments, tmp_path / "stopped.log") as stopped, member(settings) as second:
        eventually(lambda: stopped._lines.get(timeout=30) == "joined\n", within=60)
        stopped.process.send_signal(signal.SIGSTOP)
        second.join()
        stopped.process.send_signal(signal.SIGCONT)
        assert stopped.process.wait(30) == 1
        assert "JobMembershipLost: this job is no member of the Kafka group" in stopped.errors()
        second.check()


def test_a_job_without_its_link_to_kafka_changes_nothing_after_its_lease(tmp_path: Path) -> None:
    kafka = make_kafka(tmp_path / "kafka", 1)
    proxy = FaultProxy(kafka.listeners[0], 1)
    kafka.advertise([proxy.port])
    milvus = FakeMilvus()
    store = make_store(milvus, "docs")
    writes: list[float] = []
    ended = threading.Event()
    with kafka, closing(RealRig(kafka.await_ready())) as rig:
        topic = rig.topic()
        direct = rig.settings(topic)
        through = KafkaSettings(
            f"127.0.0.1:{proxy.port}", (topic,), direct.group_id, session_timeout_ms=3000, options=direct.options
        )
        with member(through) as first, member(direct) as second:
            first.join()
            milvus.fence(first.left_s)

            def write_on() -> None:
                while not ended.wait(0.01):
                    begun_at = suspend_clock()  # this thread may lose the processor before the next line but one
                    try:
                        store.api.delete("docs", None, ["00"])
                    except LeaseExpired:
                        continue
                    writes.append(begun_at)

            writer = threading.Thread(target=write_on)
            writer.start()
            eventually(lambda: writes, what="the first request")
            proxy.inject(Fault("blackhole"))
            second.join()
            joined_at = suspend_clock()
            ended.set()
            writer.join()
            assert max(writes) < joined_at
            assert first.left_s() <= 0
            proxy.heal()
            eventually(lambda: _lost(first), within=20, what="the loss")
            assert first.last_heartbeat() == float("-inf")
            second.check()
    proxy.close()


def _lost(job: JobMembership) -> bool:
    try:
        job.check()
    except MembershipLost:
        return True
    return False


def test_a_worker_begins_when_the_last_request_that_a_job_may_have_sent_is_over(
    rig: RealRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.kafka.groups.live_group.QUIET_S", 4.0)
    topic = rig.topic()
    settings = rig.settings(topic)
    rig.produce(topic, b"value")
    rig.flush()
    requests: list[float] = []
    source = KafkaSource(settings, jobs=job_group(settings.group_id, "docs"))
    with member(settings) as job, closing(GroupWatch(settings)) as watch, closed_later(source):
        job.join()
        live = LiveGroup(watch.active)
        assert live.absent()

        def write_on() -> None:
            with suppress(LeaseExpired):
                while True:
                    requests.append(suspend_clock() + live.left_s(1))

        writer = threading.Thread(target=write_on)
        writer.start()
        worker = Member(source)
        worker.read(1, within=20)
        began = suspend_clock()
        writer.join(5)
        assert max(requests) < began, "every request that was still allowed is over"
        assert not writer.is_alive()
