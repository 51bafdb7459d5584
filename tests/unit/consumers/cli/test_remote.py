"""`--url`: the same options, the same output and the same exit codes by a running query worker."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumers.cli.app import app
from consumers.cli.common.remote import query_worker
from consumers.config import load_settings
from consumers.query.access import Access, KeyFile, change_keys, new_key
from consumers.query.app import create_app
from pipeline.embedding import HashEmbedder
from pipeline.errors import MilvusStreamError, UsageError
from pipeline.query import Cursors, DirectEmbedder, Searcher, SearchService
from pipeline.store import IndexSettings, open_collection, open_ledger, open_marks
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.documents import DIMENSION, delete, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.documents import Documents
from tests.support.rigs.query_app import query_app, served
from tests.support.rigs.scripted_server import scripted_server
from tests.support.stores import Store

TIMES = re.compile(
    r'(?m)"(?:embed|search|total|plan|candidates|versions|rows|warnings|facets|count)": [\d.]+(,?)$|\d+ ms'
)
"""What two answers to one request differ in."""
COLLECTION = "documents"
# The query worker is in this process: its log would be in the output.
QUIET = ["--set", "telemetry.log_level=error"]
HERE = [*QUIET, "--set", f"milvus.collection={COLLECTION}", "--set", f"embedding.model=hash:{DIMENSION}"]
ELSEWHERE = [*QUIET, "--set", "milvus.collection=none", "--set", "embedding.model=nobody/none"]


@pytest.fixture
def url(milvus: FakeMilvus) -> Iterator[str]:
    """A query worker over some documents."""
    model = HashEmbedder(f"hash:{DIMENSION}")
    open_collection(milvus, COLLECTION, asdict(model.stamp), DIMENSION, IndexSettings("FLAT"), create=True)
    open_ledger(milvus, COLLECTION)
    open_marks(milvus, COLLECTION)
    documents = Documents(Store(milvus, COLLECTION))
    documents.write(put("a/b", "The refund failed twice. It was sent again.", 7, metadata={"lang": "en"}, tenant="one"))
    documents.write(put("..", "The refund arrived.", 8, metadata={"lang": "de"}), put("d", "gone", 9), delete("d", 10))
    with ExitStack() as stack:
        worker = stack.enter_context(query_app(milvus, model))
        yield stack.enter_context(served(worker.app))


@pytest.fixture
def guarded(url: str, milvus: FakeMilvus, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A query worker that wants a key, and a key of one tenant for a single request."""
    del url  # it has filled the collection
    file = tmp_path / "keys.json"
    options: Any = {"scopes": ("search",), "tenant": "one", "created": datetime.now(UTC), "expires": None}
    key, stored = new_key("shop", rate=0.01, **options)
    file.write_text('{"keys": []}')
    with change_keys(file) as keys:
        keys.append(stored)
    registry = CollectorRegistry()
    embed = DirectEmbedder(HashEmbedder(f"hash:{DIMENSION}").embed_queries)
    service = SearchService(Searcher(milvus, COLLECTION), embed, QueryMetrics(registry))
    with served(create_app(service, dict, registry=registry, access=Access(KeyFile(file)))) as address:
        yield address, key


def run(*arguments: str) -> None:
    app([*arguments], standalone_mode=False)


def failed(*arguments: str) -> MilvusStreamError:
    with pytest.raises(MilvusStreamError) as caught:
        run(*arguments)
    return caught.value


SEARCHES = [
    ["refund failed"],
    ["refund", "--mode", "dense", "--limit", "1"],
    ["refund", "--where", "lang=en", "--filter", '{"type": "exists", "key": "lang"}'],
    ["refund", "--from", "2026-11-01", "--to", "2026-12-24", "--min-score", "-1"],
    ["refund", "--group-size", "2", "--count", "--explain", "--strong"],
    ["refund", "--where", "lnag=en"],
    ["refund", "--chunks", "--facet", "lang", "--facet", "none", "--field", "lang", "--mode", "dense"],
    ["--vector", "{vector}"],
]


@pytest.mark.parametrize("options", SEARCHES)
@pytest.mark.parametrize("json_", [[], ["--json"]])
def test_a_search_prints_what_it_prints_here(
    options: list[str], json_: list[str], url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    vector = tmp_path / "vector.json"
    vector.write_text(json.dumps([1] * DIMENSION))
    options = [part.format(vector=vector) if part == "{vector}" else part for part in options]
    shown = []
    for place in (HERE, [*ELSEWHERE, "--url", url]):
        run("search", *options, *json_, *place)
        captured = capsys.readouterr()
        shown.append((TIMES.sub(r"TIME\1", captured.out), captured.err))
    assert shown[0] == shown[1]
    assert shown[0][0].strip()


def test_a_cursor_leads_to_the_next_page(url: str, milvus: FakeMilvus, capsys: pytest.CaptureFixture[str]) -> None:
    del url  # it has filled the collection
    registry = CollectorRegistry()
    embed = DirectEmbedder(HashEmbedder(f"hash:{DIMENSION}").embed_queries)
    cursors = Cursors(b"0" * 32, COLLECTION)
    service = SearchService(Searcher(milvus, COLLECTION), embed, QueryMetrics(registry), cursors=cursors)
    with served(create_app(service, dict, registry=registry)) as address:
        there = [*ELSEWHERE, "--url", address, "--limit", "1"]
        run("search", "refund", "--json", *there)
        first = json.loads(capsys.readouterr().out)
        run("search", "--cursor", first["next_cursor"], "--json", *there)
        second = json.loads(capsys.readouterr().out)
        run("search", "--cursor", first["next_cursor"], *there)
        shown = capsys.readouterr().out
    pages = [[result["doc_id"] for result in page["results"]] for page in (first, second)]
    assert sorted([*pages[0], *pages[1]]) == ["..", "a/b"]
    assert pages[1][0] in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cursor", "c"], "add --url, or search with a greater --limit"),
        (["--cursor", "c", "refund", "--url", "http://127.0.0.1:1"], "leave out the query and the options"),
        (["--cursor", "c", "--count", "--url", "http://127.0.0.1:1"], "leave out the query and the options"),
    ],
)
def test_a_cursor_is_for_a_query_worker_and_holds_the_whole_request(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run("search", *arguments, *QUIET)


@pytest.mark.parametrize(
    "command", [["show", "a/b"], ["history", "a/b"], ["history", "d"], ["show", ".."], ["similar", "a/b"]]
)
@pytest.mark.parametrize("json_", [[], ["--json"], ["--json", "--tenant", "one"]])
def test_a_document_is_shown_as_it_is_here(
    command: list[str], json_: list[str], url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for place in (HERE, [*ELSEWHERE, "--url", url]):
        try:
            run("documents", *command, *json_, *place)
        except MilvusStreamError as error:
            shown.append(f"{error.exit_code} {error}")
        captured = capsys.readouterr()
        shown.append(TIMES.sub(r"TIME\1", captured.out + captured.err))
    assert shown[: len(shown) // 2] == shown[len(shown) // 2 :]


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "q", "--last", "yesterday"],
        ["search", "q", "--where", "][=1"],
        ["search", "q", "--min-score", "nan"],
        ["search", " "],
        ["search", "q", "--mode", "dense", "--param", "ef=999"],
        ["search", "\udcff"],
        ["search"],
        ["documents", "show", "x" * 2_000],
        ["documents", "show", "unknown"],
        ["documents", "show", "d"],
        ["documents", "similar", "a/b", "--limit", "5000"],
    ],
)
def test_what_is_refused_here_is_refused_there(arguments: list[str], url: str) -> None:
    here, there = failed(*arguments, *HERE), failed(*arguments, *ELSEWHERE, "--url", url)
    assert here.exit_code == there.exit_code
    if "nan" not in arguments:
        assert str(here) == str(there)


def test_the_key_is_that_of_the_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ms_1_secret\n")
    with scripted_server() as server:
        server.status = 401
        for sets in ([], ["--set", f"client.api_key=file:{tmp_path / 'key'}"]):
            assert failed("search", "q", "--url", server.address, *sets).exit_code == 2
        assert [sent.headers.get("authorization") for sent in server.sent] == [None, "Bearer ms_1_secret"]
    shown = capsys.readouterr()
    assert "secret" not in shown.out + shown.err


def test_a_key_of_a_tenant_finds_that_tenants_documents(
    guarded: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, key = guarded
    command = ["search", "refund", "--json", *ELSEWHERE, "--url", address]
    assert str(failed(*command)).startswith(f"{address}/v1/search: send the header authorization")
    monkeypatch.setenv("MILVUS_STREAM__CLIENT__API_KEY", "ms_0_unknown")
    assert "the key is not known here" in str(failed(*command))
    monkeypatch.setenv("MILVUS_STREAM__CLIENT__API_KEY", key)
    run(*command)
    assert {result["doc_id"] for result in json.loads(capsys.readouterr().out)["results"]} == {"a/b"}
    limited = failed(*command)
    assert limited.exit_code == 3
    assert re.search(r"0\.01 requests a second; .*; try again in \d+ s$", str(limited))


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "grün", ""])
def test_a_key_that_is_none_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(UsageError, match=r"client\.api_key: has characters that no key") as caught:
        load_settings(None, {"MILVUS_STREAM__CLIENT__API_KEY": key})
    assert not key or key not in str(caught.value)


def test_a_key_in_the_clear_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings(None, {"MILVUS_STREAM__CLIENT__API_KEY": "ms_1_secret"})
    query_worker(settings, "http://127.0.0.1:1")
    assert capsys.readouterr().err == ""
    query_worker(settings, "http://search.example")
    assert capsys.readouterr().err == "warning: client.api_key crosses the network in the clear; use an https address\n"


def test_an_answer_does_not_steer_the_terminal() -> None:
    with scripted_server() as server:
        detail = "x\x1b[2J\nmilvus-stream: forged \ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        server.status = 422
        server.body = json.dumps({"type": "urn:milvus-stream:problem:invalid-request", "detail": detail}).encode()
        command = [sys.executable, "-m", "consumers.cli", "search", "q", "--url", server.address]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("milvus-stream: search x\\u001b[2J milvus-stream: forged")
    assert ran.stderr.count("\n") == 1


def test_no_text_of_a_document_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "x\x1b]0;title\x07\n\x9b31m"
    source = {"topic": hostile, "partition": 0, "offset": 1}
    version = {
        **dict.fromkeys(("event_time", "partition", "text"), hostile),
        "version": 1,
        "source": source,
        "metadata": {hostile: [hostile]},
        "text_exact": False,
        "complete": True,
        "chunks": [{"id": hostile, "chunk": 0, "text": hostile}],
    }
    of_all = {"doc_id": hostile, "tenant": hostile, "mode": "append", "pending": True, "warnings": [hostile]}
    document = {**version, **of_all, "earlier": [version]}
    with scripted_server() as server:
        server.body = json.dumps(document).encode()
        run("documents", "show", "x", "--url", server.address)
    shown = capsys.readouterr()
    assert (shown.out + shown.err).replace("\n", "").isprintable()
    safe = r"x\u001b]0;title\u0007 \u009b31m"
    assert shown.out.endswith(f"\n\nearlier: {safe}/0/1, {safe}\n")


NOT_NEEDED = {"torch", "transformers", "sentence_transformers", "openvino", "pymilvus", "grpc", "kafka", "fastapi"}
LOADED = """
import json, sys
from consumers.cli.app import app
app(sys.argv[1:], standalone_mode=False)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command", [["search", "refund"], ["documents", "show", ".."], ["documents", "similar", "a/b"]]
)
def test_neither_a_model_nor_a_client_of_milvus_is_loaded(command: list[str], url: str) -> None:
    arguments = [sys.executable, "-c", LOADED, *command, "--url", url]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    ran = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    assert "The refund a" in ran.stdout
    loaded = set(json.loads(ran.stderr.splitlines()[-1]))
    assert "httpx" in loaded
    assert loaded & NOT_NEEDED == set()
