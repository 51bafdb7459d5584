"""`milvus-stream publish` on real Kafka: keyed records, nothing sent twice, deletes, and a run that is cut off."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kafka.partitioner import murmur2
from typer.testing import CliRunner

from consumers.cli.app import app
from consumers.kafka import Publisher, read_range, stable_ranges
from pipeline.errors import Unavailable, UsageError
from pipeline.records import SourceRecord
from tests.support.rigs.kafka import RealRig

pytestmark = pytest.mark.servers


@dataclass(frozen=True)
class Site:
    rig: RealRig
    topic: str
    path: Path

    def write(self, **texts: str) -> None:
        self.path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))

    def publish(self, *more: str, path: str = "", code: int = 0, stdin: bytes | None = None) -> dict[str, object]:
        sets = [f"--set=kafka.bootstrap_servers={self.rig._bootstrap}", f"--set=kafka.topics={self.topic}"]
        command = ["publish", path or str(self.path), "--json", *sets, *more]
        result = CliRunner().invoke(app, command, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        report: dict[str, object] = json.loads(result.stdout)
        return report

    def records(self) -> list[SourceRecord]:
        settings = self.rig.settings(self.topic)
        return list(read_range(settings, stable_ranges(settings, (self.topic,))))

    def current(self) -> dict[str, str]:
        texts: dict[str, str] = {}
        for record in self.records():
            assert record.key is not None
            if record.value is None:
                texts.pop(record.key.decode(), None)
            else:
                value = json.loads(record.value)
                assert value["id"] == record.key.decode()
                texts[value["id"]] = value["text"]
        return texts


@pytest.fixture
def site(kafka_bootstrap: str, tmp_path: Path) -> Iterator[Site]:
    rig = RealRig(kafka_bootstrap)
    yield Site(rig, rig.topic(3), tmp_path / "rows.jsonl")
    rig.close()


def test_what_is_unchanged_is_not_sent_again_and_what_vanished_is_deleted(site: Site) -> None:
    site.write(a="one", b="two", c="three")
    assert site.publish("--dry-run")["sent"] == 3
    assert site.records() == []
    assert site.publish("--rate", "1000")["sent"] == 3
    for record in site.records():
        assert record.position.partition == (murmur2(record.key) & 0x7FFFFFFF) % 3
    site.write(a="one", b="changed")
    report = site.publish()
    assert (report["sent"], report["unchanged"], report["deleted"]) == (1, 1, 0)
    assert site.publish("--delete-missing")["deleted"] == 1
    assert site.current() == {"a": "one", "b": "changed"}
    assert len(site.records()) == 5
    assert site.publish("--all")["sent"] == 2


def test_bad_rows_are_reported_the_others_are_sent_and_nothing_is_deleted(site: Site) -> None:
    site.write(a="one", b="two")
    site.publish()
    site.write(a="new")
    with site.path.open("a") as file:
        file.write('{"id": "b"\n{"id": "c", "text": ""}\n{"text": "no id"}\n')
        file.write(json.dumps({"id": "large", "text": "x" * 1_048_500}) + "\n")
    report = site.publish("--delete-missing", code=5)
    assert (report["sent"], report["rejected"], report["deleted"]) == (1, 4, 0)
    problems = report["problems"]
    assert isinstance(problems, list)
    assert [problem["where"] for problem in problems] == [f"rows.jsonl:{number}" for number in (2, 3, 4, 5)]
    assert "missing_id" in problems[2]["why"]
    assert site.current() == {"a": "new", "b": "two"}


def test_a_run_that_is_cut_off_is_made_good_by_the_next(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write(a="one", b="two")
    site.publish()
    site.write(a="other", c="three")
    close = Publisher.__exit__

    def cut(self: Publisher, *_: object) -> None:
        close(self, None, None, None)
        raise Unavailable("the broker is away")

    with monkeypatch.context() as patched:
        patched.setattr(Publisher, "__exit__", cut)
        with pytest.raises(Unavailable):
            site.publish()
    assert site.current() == {"a": "other", "b": "two", "c": "three"}
    site.write(a="one", b="two")
    site.publish("--delete-missing")
    assert site.current() == {"a": "one", "b": "two"}


def test_another_topic_gets_everything(site: Site) -> None:
    site.write(a="one", b="two")
    site.publish()
    other = Site(site.rig, site.rig.topic(), site.path)
    assert other.publish("--delete-missing")["sent"] == 2


def test_stdin_and_a_folder(site: Site, tmp_path: Path) -> None:
    report = site.publish("--id-from", "slug", path="-", stdin=b'{"slug": "s", "text": "from stdin"}\n')
    assert report["sent"] == 1
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.md").write_text("from a file")
    (folder / "b.txt").write_bytes(b"\0")
    assert site.publish(path=str(folder), code=5)["sent"] == 1
    assert site.publish(path=str(folder), code=5)["unchanged"] == 1
    assert site.current() == {"s": "from stdin", "a.md": "from a file"}


def test_more_than_the_publisher_holds_unconfirmed_arrives(site: Site) -> None:
    site.write(**{f"d{number}": f"{number} " * 10_000 for number in range(300)})
    site.publish()
    assert len(site.current()) == 300


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--topic", "missing"], "there is no topic missing"),
        (["--topic", "documents.dlq"], "dead_letter_topic"),
        (["--delete-missing", "--set=record.tenant_field=org"], "tenant_field"),
        (["--delete-missing", "--set=mode=append"], "append"),
        (["--set=record.format=text"], "record.format"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(site: Site, arguments: list[str], problem: str) -> None:
    site.write(a="one")
    with pytest.raises(UsageError, match=problem):
        site.publish(*arguments)
    assert site.records() == []
