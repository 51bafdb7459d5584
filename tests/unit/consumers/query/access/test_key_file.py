"""The file of keys: read again when it changes, never half written, and never lost to a mistake."""

import json
import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from consumers.query.access import KeyFile, change_keys, new_key, read_keys
from pipeline.errors import UsageError
from tests.support.rigs.search import Clock


def add(path: Path, name: str = "shop") -> str:
    _, stored = new_key(
        name, scopes=("search",), tenant=None, rate=None, created=datetime(2026, 11, 22, tzinfo=UTC), expires=None
    )
    with change_keys(path) as keys:
        keys.append(stored)
    return stored.id


def test_a_new_file_is_for_its_owner_only_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = add(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    second = add(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [key.id for key in read_keys(path)] == [first, second]
    assert os.listdir(tmp_path) == ["keys.json"]


def test_a_change_is_seen_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    first = add(path)
    file = KeyFile(path, clock)
    second = add(path)
    assert set(file.keys()) == {first}
    clock.now += 1
    assert set(file.keys()) == {first, second}
    with change_keys(path) as keys:
        del keys[0]
    clock.now += 1
    assert set(file.keys()) == {second}


def test_a_secret_that_is_swapped_behind_a_link_is_seen(tmp_path: Path) -> None:
    """Kubernetes replaces the folder behind a link; the file's own path stays."""
    for number in (1, 2):
        (tmp_path / f"v{number}").mkdir()
        add(tmp_path / f"v{number}" / "keys.json", f"of version {number}")
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "keys.json").symlink_to("data/keys.json")
    clock = Clock()
    file = KeyFile(tmp_path / "keys.json", clock)
    (tmp_path / "new").symlink_to("v2")
    os.replace(tmp_path / "new", tmp_path / "data")
    clock.now += 1
    assert [key.name for key in file.keys().values()] == ["of version 2"]
    add(tmp_path / "keys.json")
    assert (tmp_path / "keys.json").is_symlink()


@pytest.mark.parametrize("content", ["", "{", '{"keys": [{"id": "x"}]}', '{"keys": 1}', "[]", None])
def test_a_broken_file_leaves_the_keys_of_before_and_is_logged_once(tmp_path: Path, content: str | None) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    first = add(path)
    file = KeyFile(path, clock)
    whole = path.read_text()
    path.unlink() if content is None else path.write_text(content)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            clock.now += 1
            assert set(file.keys()) == {first}
    assert [line["event"] for line in lines] == ["access.keys_unreadable"]
    path.write_text(whole.replace("shop", "other"))
    clock.now += 1
    assert file.keys()[first].name == "other"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"sha256": "my-secret"}, "keys.0.sha256"),
        ({"secret": "my-secret"}, "keys.0.secret"),
        ({"tenant": ""}, "keys.0.tenant"),
        ({"scopes": ["my-secret"]}, "keys.0.scopes.0"),
        ({"expires": "my-secret"}, "keys.0.expires"),
    ],
)
def test_a_broken_key_is_named_and_not_repeated(tmp_path: Path, change: dict[str, object], place: str) -> None:
    path = tmp_path / "keys.json"
    add(path)
    contents = json.loads(path.read_text())
    contents["keys"][0].update(change)
    path.write_text(json.dumps(contents))
    with pytest.raises(UsageError, match=place) as refusal:
        KeyFile(path)
    assert "my-secret" not in str(refusal.value)


def test_an_id_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add(path)
    contents = json.loads(path.read_text())
    path.write_text(json.dumps({"keys": contents["keys"] * 2}))
    with pytest.raises(UsageError, match="twice"):
        read_keys(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keys create --file"):
        KeyFile(tmp_path / "keys.json")


def test_a_file_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(b" " * (8 * 1024 * 1024 + 1))
    with pytest.raises(UsageError, match="more than"):
        read_keys(path)


def test_no_keys_at_all_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"keys": []}')
    with structlog.testing.capture_logs() as lines:
        assert KeyFile(path).keys() == {}
    assert [line["event"] for line in lines] == ["access.no_keys"]


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = add(path)
    with pytest.raises(ZeroDivisionError), change_keys(path) as keys:
        keys[:] = [keys[1 // 0]]
    assert [key.id for key in read_keys(path)] == [first]
    path.write_text("{")
    with pytest.raises(UsageError, match="broken"), change_keys(path) as keys:
        keys.clear()
    assert path.read_text() == "{", "a broken file is for its owner to repair"


def test_two_who_change_it_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=lambda: [add(path) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_keys(path)) == 40
