"""Access over real servers: a worker's process with keys, and what a tenant can see of others."""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from consumers.cli.app import app
from pipeline.embedding import EmbeddingSettings, load_embedder
from pipeline.store import IndexSettings, MilvusServerApi, connect, open_collection
from tests.support.names import unique
from tests.support.processes import running
from tests.support.rigs.tenants import COLLECTION, TENANTS, attack, attacking, fill, rows
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module", params=["milvus_uri", "milvus_lite_uri"])
def tenants(request: pytest.FixtureRequest) -> Iterator[tuple[MilvusServerApi, str]]:
    """A collection with rows of several tenants."""
    name = unique(COLLECTION)
    with closing(connect(request.getfixturevalue(request.param))) as api:
        try:
            open_collection(api, name, {"name": "test"}, 2, IndexSettings("FLAT"), create=True)
            fill(api, name)
            stored = sum(map(len, rows().values()))
            eventually(lambda: len(api.query(name, "", ["id"], limit=1_000)) == stored, what="rows visible")
            yield api, name
        finally:
            api.drop_collection(name)
            api.drop_collection(f"{name}__ledger")


def test_no_request_widens_a_tenant(tenants: tuple[MilvusServerApi, str], tmp_path: Path) -> None:
    api, name = tenants
    attacker = attack(api, name, tmp_path, tries=400, seed=11)
    assert attacker.foreign == []
    assert attacker.statuses[200] > 200, attacker.statuses
    assert attacker.results > 200


def test_every_tenant_finds_all_of_its_own(tenants: tuple[MilvusServerApi, str], tmp_path: Path) -> None:
    """Whatever it is called: a restriction that finds nothing would also show nothing foreign."""
    api, name = tenants
    body = json.dumps({"query": "q", "limit": 100, "mode": "dense", "group_by": None}).encode()
    with attacking(api, name, tmp_path, seed=1) as attacker:

        async def run() -> list[tuple[int, bytes]]:
            return [await attacker.send(number, body) for number in range(len(TENANTS))]

        answers = [json.loads(answer) for _, answer in asyncio.run(run())]
    assert [len(answer["results"]) for answer in answers] == [6] * len(TENANTS)
    found = [{result["metadata"]["tenant"] for result in answer["results"]} for answer in answers]
    assert found == [{tenant} for tenant in TENANTS]


def test_a_worker_with_keys(milvus_uri: str, tmp_path: Path) -> None:
    name, path = unique("access"), tmp_path / "keys.json"
    given = (f"milvus.uri={milvus_uri}", f"milvus.collection={name}", "embedding.model=hash:16", "query.port=0",
             "query.host=0.0.0.0", f"query.auth.keys_file={path}", "query.telemetry_port=0",
             "telemetry.log_format=json")  # fmt: skip
    command = ["-m", "consumers.cli", "serve", *(part for one in given for part in ("--set", one))]
    shop, ops = created(path, "--name", "shop"), created(path, "--name", "ops", "--scope", "admin")
    with closing(connect(milvus_uri)) as api, closing(load_embedder(EmbeddingSettings(model="hash:16"))) as model:
        try:
            open_collection(api, name, asdict(model.stamp), 16, IndexSettings("FLAT"), create=True)
            with running(command, tmp_path / "log") as worker:
                telemetry = eventually(lambda: logged(worker.errors(), "query.telemetry_listening"), within=60)[
                    "address"
                ]
                assert httpx.get(f"{telemetry}/healthz", timeout=10).status_code == 200
                port = eventually(lambda: logged(worker.errors(), "query.listening"), within=60)["port"]
                assert httpx.get(f"{telemetry}/readyz", timeout=10).status_code == 200
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                    assert search(client, None) == 401
                    assert search(client, shop) == 200
                    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
                    assert client.get("/metrics").status_code == 401
                    assert client.get("/metrics", headers=bearer(shop)).status_code == 403
                    assert client.get("/metrics", headers=bearer(ops)).status_code == 200
                    metrics = httpx.get(f"{telemetry}/metrics", timeout=10).text
                    assert 'query_requests_total{outcome="ok"} 1.0' in metrics
                    assert httpx.post(f"{telemetry}/v1/search", json={"query": "q"}).status_code == 404
                    keys("revoke", shop.split("_")[1], "--file", str(path))
                    assert eventually(lambda: search(client, shop) == 401)
                    assert search(client, ops) == 200
                    status = client.post("/v1/search", content=b"x" * 200_000, headers=bearer(shop)).status_code
                    assert status == 401
                assert worker.end(signal.SIGTERM, within=20) == 0
                log = worker.errors()
        finally:
            api.drop_collection(name)
    audit = [line for line in map(json.loads, log.splitlines()) if line["message"] == "query.audit"]
    assert (audit[0]["caller"], audit[0]["status"]) == (None, 401)
    assert (audit[1]["caller"], audit[1]["status"], audit[1]["route"]) == ("shop", 200, "/v1/search")
    assert shop.rpartition("_")[2] not in log
    assert "a secret text" not in log


def test_a_worker_that_others_could_reach_does_not_start_without_keys(tmp_path: Path) -> None:
    with running(["-m", "consumers.cli", "serve", "--host", "0.0.0.0", "--port", "0"], tmp_path / "log") as worker:
        assert worker.process.wait(60) == 2
        assert "keys create" in worker.errors()


def search(client: httpx.Client, key: str | None) -> int:
    body = {"query": "a secret text"}
    return client.post("/v1/search", json=body, headers={} if key is None else bearer(key)).status_code


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def created(path: Path, *options: str) -> str:
    return keys("create", "--file", str(path), *options).strip()


def keys(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["keys", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def logged(log: str, event: str) -> dict[str, Any] | None:
    lines = [json.loads(line) for line in log.splitlines() if f'"{event}"' in line]
    return lines[0] if lines else None
