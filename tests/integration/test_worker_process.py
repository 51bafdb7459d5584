"""The ingest worker as a process: memory under a stalled Milvus, probes, signals, and errors at the start."""

import json
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from confluent_kafka import KafkaException, Producer
from kafka.admin import KafkaAdminClient
from prometheus_client.parser import text_string_to_metric_families

from consumers.local import LocalMilvusLite
from tests.support.oracle.observed import committed_and_end, read_all
from tests.support.processes import Running, expect_gone, running
from tests.support.rigs.load import Sent
from tests.support.rigs.publisher import produce
from tests.support.rigs.site import write_config
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

MIB = 2**20
RECORD_BYTES = 100_000
BACKLOG_BYTES = 1_000_000_000
BUFFER_BYTES = 32 * MIB


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[LocalMilvusLite]:
    server = LocalMilvusLite(tmp_path / "lite")
    server.start()
    yield server
    server.stop()


def config_file(folder: Path, kafka: str, milvus: str, topic: str, more: Mapping[str, Any] | None = None) -> Path:
    sections = {**(more or {}), "milvus": {"flush_interval": "2s", "timeout": "2s", **(more or {}).get("milvus", {})}}
    return write_config(folder / "config.yaml", topic, kafka, milvus, sections)


def ingest(config: Path, *options: str) -> list[str]:
    return ["-m", "consumers.cli", "ingest", "-c", str(config), *options]


def probe_server(worker: Running) -> str:
    def find() -> str:
        lines = [line for line in worker.errors().splitlines() if "ingest.listening" in line]
        return str(yaml.safe_load(lines[0])["address"]) if lines else ""

    return eventually(find, within=60, what="the probe server")


def servers_of(lite: LocalMilvusLite) -> list[psutil.Process]:
    """The guard's child is the server itself."""
    assert lite._process is not None
    return psutil.Process(lite._process.pid).children(recursive=True)


@pytest.mark.timeout(400)
def test_memory_stays_flat_with_a_stalled_milvus_and_a_backlog_of_a_gigabyte(
    kafka_bootstrap: str, lite: LocalMilvusLite, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = make_topic(4, prefix="backlog")
    value = b"".join(b"%016x " % (number * 2_654_435_761 % 2**64) for number in range(RECORD_BYTES // 17))
    produce(kafka_bootstrap, topic, [Sent(b"%d" % n, value) for n in range(BACKLOG_BYTES // RECORD_BYTES)])
    batch = {"max_records": 50, "buffer_bytes": BUFFER_BYTES}
    config = config_file(tmp_path, kafka_bootstrap, lite.address, topic, {"batch": batch})
    with running(ingest(config), tmp_path / "worker.log") as worker:
        address = probe_server(worker)
        eventually(lambda: worker.errors().count("batch.written") >= 5, within=60, what="the first batches")
        for process in servers_of(lite):
            process.send_signal(signal.SIGSTOP)
        memory = psutil.Process(worker.process.pid)
        before = memory.memory_info().rss
        eventually(lambda: "kafka.paused" in worker.errors(), within=60, what="the pause")
        eventually(lambda: httpx.get(address + "/readyz").status_code == 503, within=60, what="readiness turning red")
        assert "milvus" in httpx.get(address + "/readyz").text
        largest, until = before, time.monotonic() + 10
        while time.monotonic() < until:
            largest = max(largest, memory.memory_info().rss)
            assert httpx.get(address + "/healthz").status_code == 200
        # The budget counts the records' bytes; decoded, cut and packed they take several times as much.
        assert largest - before < 8 * BUFFER_BYTES, f"{(largest - before) / MIB:.0f} MiB more"
        assert "kafka.lost" not in worker.errors()

        for process in servers_of(lite):
            process.send_signal(signal.SIGCONT)
        written = worker.errors().count("batch.written")
        eventually(lambda: worker.errors().count("batch.written") > written + 5, within=90, what="work going on")
        eventually(lambda: httpx.get(address + "/readyz").status_code == 200, within=30)
        assert worker.end(signal.SIGTERM, within=60) == 0
    committed = committed_and_end(kafka_bootstrap, topic, topic)
    assert 0 < sum(max(0, offset) for offset, _ in committed.values()) < BACKLOG_BYTES // RECORD_BYTES


def test_a_second_signal_ends_it_at_once(
    kafka_bootstrap: str, lite: LocalMilvusLite, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = make_topic(1, prefix="signals")
    config = config_file(tmp_path, kafka_bootstrap, lite.address, topic, {"shutdown_timeout": "60s"})
    with running(ingest(config), tmp_path / "worker.log") as worker:
        eventually(lambda: "kafka.assigned" in worker.errors(), within=60)
        for process in servers_of(lite):
            process.send_signal(signal.SIGSTOP)
        produce(kafka_bootstrap, topic, [Sent(b"a", b'{"id": "a", "text": "waits"}')])
        eventually(lambda: "milvus.unavailable" in worker.errors(), within=60)
        worker.process.send_signal(signal.SIGTERM)
        eventually(lambda: "worker.draining" in worker.errors(), within=10)
        assert worker.end(signal.SIGTERM, within=5) == 128 + signal.SIGTERM
    for process in servers_of(lite):
        process.send_signal(signal.SIGCONT)
    assert all(offset <= 0 for offset, _ in committed_and_end(kafka_bootstrap, topic, topic).values())


def test_two_workers_under_a_supervisor_share_the_topic_and_one_address(
    kafka_bootstrap: str, milvus_lite_uri: str, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = make_topic(2, prefix="workers")
    config = config_file(tmp_path, kafka_bootstrap, milvus_lite_uri, topic)

    def samples(address: str, name: str) -> dict[str, float]:
        """By worker, whatever the other labels are."""
        sums: defaultdict[str, float] = defaultdict(float)
        for family in text_string_to_metric_families(httpx.get(f"{address}/metrics", timeout=10).text):
            for sample in family.samples:
                if sample.name == name:
                    sums[sample.labels["worker"]] += sample.value
        return dict(sums)

    with running(ingest(config, "--workers", "2"), tmp_path / "worker.log") as supervisor:
        address = probe_server(supervisor)
        assert httpx.get(f"{address}/healthz").status_code == 200
        shares = {"0": 1.0, "1": 1.0}
        eventually(lambda: samples(address, "ingest_assigned_partitions") == shares, within=120, what="one each")
        eventually(lambda: httpx.get(f"{address}/readyz").status_code == 200, within=60)
        produce(kafka_bootstrap, topic, [Sent(b"%d" % n, b'{"id": "%d", "text": "words"}' % n) for n in range(60)])
        eventually(lambda: sum(samples(address, "ingest_records_total").values()) == 60, within=60, what="all records")
        assert all(samples(address, "ingest_records_total").values())

        killed = next(p for p in supervisor.descendants() if "0/2:" in " ".join(p.cmdline()))
        killed.kill()
        eventually(lambda: samples(address, "ingest_worker_starts") == {"0": 2.0, "1": 1.0}, within=60)
        eventually(lambda: samples(address, "ingest_assigned_partitions") == shares, within=120, what="one each again")
        children = supervisor.descendants()
        assert supervisor.end(signal.SIGTERM, within=90) == 0, supervisor.errors()
        expect_gone(children)
    assert sum(offset for offset, _ in committed_and_end(kafka_bootstrap, topic, topic).values()) == 60
    lines = [json.loads(line) for line in supervisor.errors().splitlines()]
    assert {line["worker"] for line in lines if line["message"] == "kafka.assigned"} == {"0", "1"}


def test_workers_that_have_caught_up_end_with_one_result(
    kafka_bootstrap: str, milvus_lite_uri: str, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = make_topic(2, prefix="caught-up")
    produce(kafka_bootstrap, topic, [Sent(b"%d" % n, b'{"id": "%d", "text": "words"}' % n) for n in range(40)])
    config = config_file(tmp_path, kafka_bootstrap, milvus_lite_uri, topic)
    options = ["--workers", "2", "--until-caught-up", "--json"]
    with running(ingest(config, *options), tmp_path / "worker.log") as supervisor:
        assert supervisor.process.wait(240) == 0, supervisor.errors()
        summary = json.loads("".join(supervisor.lines()))
    assert (summary["consumed"], summary["clean"]) == (40, True)
    assert sum(summary["committed"].values()) == 40


def test_more_workers_than_kafka_partitions_are_warned_of_and_a_refusal_ends_all(
    kafka_bootstrap: str, milvus_lite_uri: str, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = make_topic(1, prefix="idle")
    config = config_file(tmp_path, kafka_bootstrap, milvus_lite_uri, topic)
    with running(ingest(config, "--workers", "2"), tmp_path / "worker.log") as supervisor:
        eventually(lambda: "kafka.assigned" in supervisor.errors(), within=120)
        (idle,) = [line for line in supervisor.errors().splitlines() if "kafka.idle_workers" in line]
        assert json.loads(idle)["worker"] == "0"
        assert supervisor.end(signal.SIGTERM, within=90) == 0, supervisor.errors()
    other = ingest(config, "--workers", "2", "--set", "embedding.model=hash:24")
    with running(other, tmp_path / "refused.log") as supervisor:
        assert supervisor.process.wait(180) == 4, supervisor.errors()
    last = supervisor.errors().splitlines()[-1]
    assert last.startswith("milvus-stream: worker ")
    assert "exit code 4" in last


@pytest.mark.parametrize("until_caught_up", [True, False])
def test_a_worker_with_a_model_ends_without_a_report_of_leaks(
    kafka_bootstrap: str, milvus_lite_uri: str, make_topic: Callable[..., str], tmp_path: Path, until_caught_up: bool
) -> None:
    topic = make_topic(1, prefix="leaks")
    produce(kafka_bootstrap, topic, [Sent(b"a", b'{"id": "a", "text": "words"}')])
    model = {"embedding": {"model": "sentence-transformers/all-MiniLM-L6-v2"}}
    config = config_file(tmp_path, kafka_bootstrap, milvus_lite_uri, topic, model)
    with running(ingest(config, *["--until-caught-up"] * until_caught_up), tmp_path / "worker.log") as worker:
        if until_caught_up:
            assert worker.process.wait(240) == 0, worker.errors()
        else:
            eventually(lambda: "batch.written" in worker.errors(), within=240)
            assert worker.end(signal.SIGTERM, within=60) == 0, worker.errors()
    assert "model.loaded" in worker.errors()
    assert "nanobind" not in worker.errors()


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"kafka": {"bootstrap_servers": "127.0.0.1:1", "bootstrap_timeout_ms": 2000}}, 3, "127.0.0.1:1"),
    ({"milvus": {"uri": "http://127.0.0.1:1"}}, 3, "http://127.0.0.1:1"),
    ({"kafka": {"topics": ["nowhere-to-be-found"]}}, 2, "nowhere-to-be-found"),
    ({"kafka": {"create_dead_letter_topic": False}}, 2, "create_dead_letter_topic"),
    ({"embedding": {"model": "./no-such-model"}}, 2, "./no-such-model"),
    ({"milvus": {"index": {"type": "HNSW", "params": {"M": 1}}}}, 2, "milvus.index.params.M"),
    ({"kafka": {"sasl_mechanim": "PLAIN"}}, 2, "sasl_mechanism"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[says for _, _, says in WRONG])
def test_what_is_wrong_at_the_start_is_named(
    kafka_bootstrap: str,
    milvus_lite_uri: str,
    make_topic: Callable[..., str],
    tmp_path: Path,
    wrong: tuple[dict[str, Any], int, str],
) -> None:
    changes, code, says = wrong
    topic = make_topic(1, prefix="start")
    config = config_file(tmp_path, kafka_bootstrap, milvus_lite_uri, topic, changes)
    with running(ingest(config), tmp_path / "worker.log") as worker:
        assert worker.process.wait(180) == code, worker.errors()
        last = worker.errors().splitlines()[-1]
        assert last.startswith("milvus-stream: ")
        assert says in last


def test_another_model_is_refused(
    kafka_bootstrap: str, milvus_lite_uri: str, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = make_topic(1, prefix="model")
    config = config_file(tmp_path, kafka_bootstrap, milvus_lite_uri, topic)
    with running(ingest(config, "--until-caught-up"), tmp_path / "first.log") as worker:
        assert worker.process.wait(180) == 0, worker.errors()
    for command in ("ingest", "serve"):
        arguments = ["-m", "consumers.cli", command, "-c", str(config), "--set", "embedding.model=hash:24"]
        with running(arguments, tmp_path / f"{command}.log") as worker:
            assert worker.process.wait(180) == 4, worker.errors()
            assert "hash:16" in worker.errors().splitlines()[-1]


def test_a_port_in_use_is_named(
    kafka_bootstrap: str, milvus_lite_uri: str, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        topic = make_topic(1, prefix="port")
        config = config_file(tmp_path, kafka_bootstrap, milvus_lite_uri, topic, {"telemetry": {"port": port}})
        with running(ingest(config), tmp_path / "worker.log") as worker:
            assert worker.process.wait(180) == 2, worker.errors()
            assert f"telemetry.port {port}" in worker.errors().splitlines()[-1]


def test_a_dead_letter_topic_that_is_gone_holds_back_only_what_needs_it(
    kafka_bootstrap: str, milvus_lite_uri: str, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = make_topic(2, prefix="gone")
    quick = {"max_block_ms": 1_000, "delivery_timeout_ms": 2_000, "request_timeout_ms": 1_500}
    config = config_file(
        tmp_path, kafka_bootstrap, milvus_lite_uri, topic, {"kafka": quick, "milvus": {"flush_interval": "1s"}}
    )

    def committed() -> dict[int, int]:
        with suppress(KafkaException):  # a broker that has just started moves its coordinators
            return {number: at for number, (at, _) in committed_and_end(kafka_bootstrap, topic, topic).items()}
        return {}

    def publish(partition: int, values: list[bytes]) -> None:
        producer = Producer({"bootstrap.servers": kafka_bootstrap})
        for value in values:
            producer.produce(topic, value, partition=partition)
        assert producer.flush(10) == 0

    good = [b'{"id": "%d", "text": "words"}' % number for number in range(40)]
    with (
        closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as admin,
        running(ingest(config), tmp_path / "worker.log") as worker,
    ):
        address = probe_server(worker)
        publish(0, [b"{poison", *good[:10]])
        eventually(lambda: committed().get(0) == 11, within=60)
        admin.delete_topics([f"{topic}.dlq"])
        publish(0, [*good[10:15], b"{more poison", *good[15:20]])
        publish(1, good[20:])
        eventually(lambda: committed() == {0: 16, 1: 20}, within=60, what="the commits of all that is not behind it")
        eventually(lambda: httpx.get(address + "/readyz").status_code == 503, within=30)
        assert "dead letters" in httpx.get(address + "/readyz").text
        assert httpx.get(address + "/healthz").status_code == 200
        publish(1, good[:5])
        eventually(lambda: committed() == {0: 16, 1: 25}, within=30, what="more commits beside it")

        admin.create_topics({f"{topic}.dlq": {"num_partitions": 1, "replication_factor": 1}})
        eventually(lambda: committed() == {0: 22, 1: 25}, within=60, what="the rest")
        eventually(lambda: httpx.get(address + "/readyz").status_code == 200, within=10)
        assert [letter.value() for letter in read_all(kafka_bootstrap, f"{topic}.dlq")] == [b"{more poison"]
        assert worker.end(signal.SIGTERM, within=60) == 0
        admin.delete_topics([f"{topic}.dlq"])


def test_a_mapping_error_ends_the_worker_before_the_topic_is_empty(
    kafka_bootstrap: str, milvus_lite_uri: str, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = make_topic(1, prefix="mapping")
    produce(kafka_bootstrap, topic, [Sent(b"%d" % n, b'{"id": "%d", "text": "words"}' % n) for n in range(900)])
    changes = {"record": {"text_field": "body"}, "dead_letters": {"max_consecutive": 300}}
    config = config_file(tmp_path, kafka_bootstrap, milvus_lite_uri, topic, changes)
    with running(ingest(config, "--until-caught-up"), tmp_path / "worker.log") as worker:
        assert worker.process.wait(180) == 1, worker.errors()
        last = worker.errors().splitlines()[-1]
    assert last.startswith(f"milvus-stream: 301 records in a row of Kafka partition {topic}/0 were rejected")
    assert "offsets 0 to 300, missing_text 301" in last
    assert len(read_all(kafka_bootstrap, f"{topic}.dlq")) <= 300
    assert committed_and_end(kafka_bootstrap, topic, topic)[0][0] <= 300
    with running(ingest(config, "--workers", "1"), tmp_path / "workers.log") as supervisor:
        assert supervisor.process.wait(180) == 1, supervisor.errors()
        assert "worker.restarting" not in supervisor.errors()
        assert supervisor.errors().splitlines()[-1].startswith("milvus-stream: worker 0 ended with exit code 1")
    with running(
        ingest(config, "--until-caught-up", "--set", "record.text_field=text"), tmp_path / "again.log"
    ) as ended:
        assert ended.process.wait(60) == 0, ended.errors()
