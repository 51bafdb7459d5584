"""Starts that fail or are ended before a model is loaded, on real servers."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.support.milvus import milvus_client
from tests.support.names import unique
from tests.support.processes import running
from tests.support.rigs.site import Site, topics, write_config

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]
NO_MODEL = ("--set", "embedding.model=there/is-none")
RANGE = ("--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z")
EMPTY_RANGE = ("--from", "2019-01-01T00:00:00Z", "--to", "2019-01-02T00:00:00Z")
LOADING = """
import threading
from consumers.wiring import documents

def load_for_ever(_, **_options):
    print('{"loading": true}', flush=True)
    threading.Event().wait()

documents.load_embedder = load_for_ever
from consumers.cli.app import main
main()
"""


@pytest.fixture
def site(kafka_bootstrap: str, milvus_lite_uri: str, tmp_path: Path) -> Iterator[Site]:
    """A topic with three documents and no collection."""
    name = unique("starts")
    made = Site(name, write_config(tmp_path / "c.yaml", name, kafka_bootstrap, milvus_lite_uri), kafka_bootstrap,
                milvus_lite_uri)  # fmt: skip
    with topics(made, 1):
        producer = Producer({"bootstrap.servers": kafka_bootstrap})
        for number in range(3):
            producer.produce(name, key=f"d{number}".encode(), value=json.dumps({"text": f"text {number}"}).encode())
        assert producer.flush(20) == 0
        yield made


def collections(site: Site) -> list[str]:
    with closing(milvus_client(site.milvus)) as client:
        return [name for name in client.list_collections() if name.startswith(site.name.replace("-", "_"))]


@pytest.mark.parametrize(
    "command", [("ingest", "--until-caught-up"), ("replay", *RANGE), ("replay", "--dry-run", *RANGE), ("audit",)]
)
def test_a_missing_topic_is_found_before_a_model_is_loaded_and_a_collection_created(
    site: Site, command: tuple[str, ...]
) -> None:
    done = site.command(*command, *NO_MODEL, "--set", f"kafka.topics=[{site.name}x]", code=2)
    assert f"no such topic on the broker: {site.name}x (did you mean {site.name}?)" in done.stderr
    assert "there/is-none" not in done.stderr
    assert collections(site) == []
    done = site.command(*command, *NO_MODEL, code=1 if command == ("audit",) else 2)
    assert ("there is no collection" if command == ("audit",) else "there/is-none") in done.stderr
    assert collections(site) == []


def test_a_replay_of_nothing_loads_no_model(site: Site) -> None:
    plan = json.loads(site.command("replay", "--dry-run", *EMPTY_RANGE, *NO_MODEL, "--json").stdout)
    assert (plan["records"], plan["estimated_minutes"]) == (0, None)
    summary = json.loads(site.command("replay", *EMPTY_RANGE, *NO_MODEL, "--json", "--must-finish").stdout)
    assert summary["finished"] is True


def test_a_replay_that_is_ended_while_its_model_is_loaded_leaves_the_collection_to_the_next(
    site: Site, tmp_path: Path
) -> None:
    arguments = ["-c", LOADING, "replay", "-c", str(site.config), *RANGE]
    with running(arguments, tmp_path / "log", {"PYTHONPATH": os.getcwd()}) as process:
        assert process.json_line(within=120) == {"loading": True}
        assert process.end(signal.SIGTERM) == 128 + signal.SIGTERM
        assert "Traceback" not in process.errors()
    done = site.command("replay", *RANGE, "--json")
    assert json.loads(done.stdout)["finished"] is True
    assert "waiting" not in done.stderr
