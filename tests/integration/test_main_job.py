"""The main job on real servers: a mixed load, a kill, a stop, a restart; then exactly what an oracle says is there."""

import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.milvus import milvus_client
from tests.support.oracle.observed import committed_and_end, stored_documents
from tests.support.oracle.stored import Contract, Scope, judge
from tests.support.processes import Running, running
from tests.support.rigs.load import Load
from tests.support.rigs.publisher import produce
from tests.support.rigs.site import write_config
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers
RECORDS = 2_000


@pytest.fixture(params=["milvus_uri", "milvus_lite_uri"])
def uri(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


def _config(folder: Path, kafka: str, uri: str, topic: str) -> Path:
    sections = {
        "milvus": {"flush_interval": "2s"},
        "chunking": {"max_tokens": 48, "overlap": 8},
        "embedding": {"model": "hash:32"},
        "batch": {"max_records": 100},
        "query": {"port": 0},
    }
    return write_config(folder / "config.yaml", topic, kafka, uri, sections)


def _ingest(config: Path, *options: str) -> list[str]:
    return ["-m", "consumers.cli", "ingest", "-c", str(config), *options]


def _committed(kafka: str, topic: str) -> int:
    return sum(max(0, offset) for offset, _ in committed_and_end(kafka, topic, topic).values())


def test_a_mixed_load_with_a_kill_and_a_restart_ends_in_the_exact_state(
    kafka_bootstrap: str, uri: str, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = make_topic(4, prefix="main")
    config = _config(tmp_path, kafka_bootstrap, uri, topic)
    sent = Load(11, 4).next_records(RECORDS)
    produce(kafka_bootstrap, topic, sent[: RECORDS // 2])

    with running(_ingest(config), tmp_path / "killed.log") as worker:
        eventually(
            lambda: _committed(kafka_bootstrap, topic) > 0, within=90, what=f"a commit; {worker.errors()[-2000:]}"
        )
        produce(kafka_bootstrap, topic, sent[RECORDS // 2 :])
        eventually(lambda: "batch.written" in worker.errors(), within=60)
        worker.end(signal.SIGKILL)
    with running(_ingest(config), tmp_path / "stopped.log") as worker:
        eventually(lambda: "batch.written" in worker.errors(), within=90, what="work after the kill")
        assert worker.end(signal.SIGTERM, within=60) == 0, worker.errors()[-2000:]
    with running(_ingest(config, "--until-caught-up", "--json"), tmp_path / "last.log") as worker:
        assert worker.process.wait(120) == 0, worker.errors()[-2000:]

    collection = topic.replace("-", "_")
    with closing(milvus_client(uri)) as client:
        try:
            contract = Contract(dimension=32)
            verdict = judge(Scope(kafka_bootstrap, (topic,), topic, f"{topic}.dlq", collection, contract), client)
            assert verdict.harms == 0, verdict
            stored = stored_documents(client, collection).documents
            _expect_searchable(
                config, tmp_path, {doc_id: rows[0][1] for doc_id, rows in stored.items() if not rows[1:]}
            )
        finally:
            for name in (collection, f"{collection}__ledger", f"{collection}__marks"):
                client.drop_collection(name)


def _expect_searchable(config: Path, folder: Path, single: dict[str, Any]) -> None:
    """The exact text of a document finds that document first (equal texts are equal vectors with hash:32)."""
    with running(["-m", "consumers.cli", "serve", "-c", str(config)], folder / "serve.log") as server:
        with httpx.Client(base_url=_address(server), timeout=60) as client:
            wanted = sorted(single)[:320]
            for start in range(0, len(wanted), 32):
                ids = wanted[start : start + 32]
                texts = [single[doc_id]["text"] for doc_id in ids]
                body = {"query": texts, "mode": "dense", "limit": 1, "timeout_ms": 30_000}
                answers = client.post("/v1/search", json=body).json()["answers"]
                assert [answer["results"][0]["doc_id"] for answer in answers] == ids
        assert server.end(signal.SIGTERM) == 0


def _address(server: Running) -> str:
    def find() -> str:
        lines = [line for line in server.errors().splitlines() if "query.listening" in line]
        return lines[0] if lines else ""

    line = eventually(find, within=60, what="the query worker")
    port = yaml.safe_load(line)["port"]
    return f"http://127.0.0.1:{port}"
