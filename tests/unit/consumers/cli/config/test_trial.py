"""`config test` on files: what is printed for each record, and the exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = '{"after": {"id": 7, "lang": "en"}, "title": "Refunds", "body": "In ten days.", "ts": "2026-11-22T10:00:00Z"}'
FIELDS = ("record.fields.id=$.after.id", "record.fields.event_time=$.ts", "record.text_template={title}: {body}")


def config_test(*arguments: str, sets: tuple[str, ...] = (), given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    options = [part for one in ("embedding.model=hash:8", *sets) for part in ("--set", one)]
    line = [sys.executable, "-m", "consumers.cli", "config", "test", *arguments, *options]
    return subprocess.run(line, capture_output=True, check=False, input=given)


def test_lines_of_a_file_with_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(f'{GOOD}\n\n{{"after": {{"id": 8}}, "title": true}}\n')
    ran = config_test(str(file), "--json", sets=FIELDS)
    assert ran.returncode == 5, ran.stderr
    stored, refused = (json.loads(line) for line in ran.stdout.splitlines())
    assert (stored["record"], stored["operation"], stored["id"]) == (f"{file}:1", "store", "7")
    assert (stored["partition"], stored["event_time"]) == ("d20261122", "2026-11-22T10:00:00Z")
    assert (stored["chunks"], stored["metadata"]) == (["Refunds: In ten days."], {"after": {"lang": "en"}})
    assert (refused["record"], refused["operation"], refused["reason"]) == (f"{file}:3", "reject", "invalid_text")
    shown = config_test(str(file), sets=FIELDS).stdout.decode()
    assert "stores 7\n" in shown
    assert "rejected, invalid_text" in shown


def test_a_file_that_is_no_list_of_lines_is_one_record(tmp_path: Path) -> None:
    file = tmp_path / "ticket.txt"
    file.write_text("first line\nsecond line \x1b[2J")
    ran = config_test(str(file), "--key", "t1")
    assert ran.returncode == 0, ran.stderr
    shown = ran.stdout.decode()
    assert "stores t1\n" in shown
    assert "\x1b" not in shown, "what a record holds does not steer the terminal"
    assert config_test("-", "--key", "t2", given=b'{"id": 1, "text": "x"}').stdout.startswith(b"-: stores 1\n")


@pytest.mark.parametrize(
    ("arguments", "sets", "message"),
    [
        ((), (), "FILE, or --topic"),
        (("a.jsonl", "--topic", "t"), (), "FILE, or --topic"),
        (("not-there.jsonl",), (), "not-there.jsonl cannot be read"),
        (("-",), ("record.fields.id=$..id",), "does not name one field"),
        (("-",), ("record.text_template=x",), "names no field"),
    ],
)
def test_what_cannot_be_tried_is_a_usage_error(arguments: tuple[str, ...], sets: tuple[str, ...], message: str) -> None:
    ran = config_test(*arguments, sets=sets)
    assert (ran.returncode, message in ran.stderr.decode()) == (2, True), ran.stderr
