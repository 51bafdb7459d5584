"""`milvus-stream documents …`: what is shown, what is escaped, and its exit codes; no model is loaded."""

import json

import pytest

from consumers.cli.app import app
from pipeline.query import NoSuchDocument
from tests.support.documents import DIMENSION, delete, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.documents import Documents
from tests.support.stores import make_store

TEXT = "The refund failed twice on Monday,\nand nobody knows why."
SETTINGS = ["--set", "milvus.collection=news", "--set", "embedding.model=nobody/none"]


@pytest.fixture
def documents(milvus: FakeMilvus) -> Documents:
    return Documents(make_store(milvus, "news", dimension=DIMENSION))


def run(*arguments: str) -> None:
    app(["documents", arguments[0], *SETTINGS, *arguments[1:]], standalone_mode=False)


def test_a_document_is_shown(documents: Documents, capsys: pytest.CaptureFixture[str]) -> None:
    documents.write(put("a/b", TEXT, 7, metadata={"lang": "en"}, tenant="one"))
    run("show", "a/b")
    shown = capsys.readouterr()
    assert TEXT in shown.out
    for part in ("a/b", "one", "documents/0/7", "2026-11-22T12:00:00Z", "d20261122", "metadata lang"):
        assert part in shown.out
    assert shown.err == ""
    run("show", "a/b", "--json", "--tenant", "one")
    assert json.loads(capsys.readouterr().out)["text"] == TEXT


def test_what_a_document_holds_does_not_steer_the_terminal(
    documents: Documents, capsys: pytest.CaptureFixture[str]
) -> None:
    documents.write(put("\x1b[2J", "[red]x[/red] \x1b[31mred", 1, metadata={"m\x1b[1m": "\x1b]0;t\x07"}))
    for command in ("show", "history", "similar"):
        run(command, "\x1b[2J")
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "[red]x[/red]" in shown.out


def test_a_pending_change_and_missing_rows_are_warnings(
    documents: Documents, capsys: pytest.CaptureFixture[str]
) -> None:
    documents.write(put("a", TEXT, 1), put("b", TEXT, 2))
    documents.interrupt(put("a", TEXT + " At all.", 3, day=1), after_upserts=2)
    documents.lose("b", [1])
    run("show", "a")
    assert "this is the version before it" in capsys.readouterr().err
    run("show", "b")
    assert "milvus-stream audit" in capsys.readouterr().err
    run("history", "a")
    shown = capsys.readouterr().out
    for part in ("a change is pending", "d20261122", "d20261123", "documents/0/3", "model"):
        assert part in shown


def test_the_history_of_a_deleted_document(documents: Documents, capsys: pytest.CaptureFixture[str]) -> None:
    documents.write(put("a", TEXT, 1), delete("a", 2))
    with pytest.raises(NoSuchDocument, match="was deleted at") as gone:
        run("show", "a")
    assert gone.value.exit_code == 1
    run("history", "a", "--json")
    assert json.loads(capsys.readouterr().out)["ledger"]["state"] == "deleted"
    run("history", "a")
    assert "deleted" in capsys.readouterr().out


def test_similar_documents(documents: Documents, capsys: pytest.CaptureFixture[str]) -> None:
    documents.write(put("a", TEXT, 1), put("b", TEXT, 2), put("c", "short", 3))
    run("similar", "a", "--limit", "1", "--json")
    assert [result["doc_id"] for result in json.loads(capsys.readouterr().out)["results"]] == ["b"]
