"""Who may ask: nobody from outside, unless the configuration says who."""

from pathlib import Path

import pytest
import structlog

from consumers.config import Settings, load_settings
from consumers.http import check_address
from consumers.wiring.access import query_access
from pipeline.errors import UsageError

KEYS = '{"keys": []}'


def settings(*sets: str) -> Settings:
    return load_settings(None, {}, sets)


def test_without_keys_only_this_machine_may_ask() -> None:
    access = query_access(settings(), local=True)
    assert not access.authenticates
    assert access.anonymous.may("admin")
    with pytest.raises(UsageError, match=r"keys create.*query\.auth\.keys_file.*query\.auth\.oidc.*mode: none"):
        query_access(settings("query.host=0.0.0.0"), local=False)


def test_who_lets_everybody_in_says_so_and_is_warned() -> None:
    with structlog.testing.capture_logs() as lines:
        access = query_access(settings("query.auth.mode=none", "query.host=0.0.0.0"), local=False)
    assert [line["event"] for line in lines] == ["query.no_authentication"]
    assert access.anonymous.may("search")
    assert not access.anonymous.may("admin")


@pytest.mark.parametrize("local", [True, False])
def test_configured_keys_are_needed_on_this_machine_too(tmp_path: Path, local: bool) -> None:
    path = tmp_path / "keys.json"
    path.write_text(KEYS)
    assert query_access(settings(f"query.auth.keys_file={path}"), local=local).authenticates


def test_a_missing_file_of_keys_is_no_open_door(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keys create --file"):
        query_access(settings(f"query.auth.keys_file={tmp_path / 'keys.json'}"), local=True)


def test_tokens_of_an_issuer_are_taken_by_all_settings() -> None:
    configured = settings("query.auth.oidc.issuer=https://id.example", "query.auth.oidc.audience=a")
    access = query_access(configured, local=False)
    assert access.keys is None
    assert access.tokens is not None


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)]
)
def test_whether_others_can_connect_is_read_from_the_address(host: str, local: bool) -> None:
    assert check_address("query", host, 0) is local
