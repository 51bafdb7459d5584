"""The commands `keys`: a key is shown once, and its file says nothing of it but the hash."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from consumers.cli.app import app
from pipeline.errors import UsageError

RUNNER = CliRunner()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def keys(*arguments: str) -> Result:
    result = RUNNER.invoke(app, ["keys", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def listed(path: Path) -> list[dict[str, Any]]:
    views: list[dict[str, Any]] = json.loads(keys("list", "--file", str(path), "--json").stdout)
    return views


def test_a_key_is_shown_once_and_its_hash_is_stored(path: Path) -> None:
    result = keys(
        "create", "--file", str(path), "--name", "shop", "--tenant", "acme", "--rate", "5", "--expires-in", "90d"
    )
    key = result.stdout.strip()
    assert re.fullmatch(r"ms_[0-9a-f]{12}_[0-9a-f]{64}", key)
    (stored,) = json.loads(path.read_text())["keys"]
    assert stored["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    assert key.rpartition("_")[2] not in path.read_text() + result.stderr
    (view,) = listed(path)
    assert "sha256" not in view
    assert (view["name"], view["tenant"], view["rate"], view["scopes"]) == ("shop", "acme", 5.0, ["search"])
    assert not view["expired"]
    assert "acme" in keys("list", "--file", str(path)).stdout


def test_a_script_reads_the_key_from_json(path: Path) -> None:
    made = json.loads(keys("create", "--file", str(path), "--name", "ops", "--scope", "admin", "--json").stdout)
    assert made["key"].startswith(f"ms_{made['id']}_")
    assert made["scopes"] == ["admin"]


def test_a_revoked_key_is_gone_and_the_others_stay(path: Path) -> None:
    first, second = (
        json.loads(keys("create", "--file", str(path), "--name", name, "--json").stdout)["id"] for name in "ab"
    )
    keys("revoke", first, "--file", str(path))
    assert [view["id"] for view in listed(path)] == [second]
    with pytest.raises(UsageError, match="keys list"):
        keys("revoke", first, "--file", str(path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", ""], "--name"),
        (["--name", "a\nb"], "--name"),
        (["--name", "a", "--tenant", " "], "--tenant"),
        (["--name", "a", "--tenant", "acme", "--scope", "admin"], "--tenant"),
        (["--name", "a", "--rate", "0"], "--rate"),
        (["--name", "a", "--rate", "nan"], "--rate"),
        (["--name", "a", "--expires-in", "soon"], "--expires-in"),
        (["--name", "a", "--expires-in", "0s"], "--expires-in"),
        (["--name", "a", "--expires-in", "9999999d"], "--expires-in"),
    ],
)
def test_a_mistake_names_the_option_and_makes_no_file(path: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        keys("create", "--file", str(path), *arguments)
    assert not path.exists()


def test_the_configured_file_is_used_and_none_is_an_error(path: Path, tmp_path: Path) -> None:
    keys("create", "--name", "shop", "--set", f"query.auth.keys_file={path}")
    assert len(listed(path)) == 1
    with pytest.raises(UsageError, match="--file"):
        keys("list")
    with pytest.raises(UsageError, match="No such file"):
        keys("create", "--name", "shop", "--file", str(tmp_path / "nowhere" / "keys.json"))
