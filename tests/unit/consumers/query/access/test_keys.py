"""API keys: what is stored, and what is recognised."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from consumers.query.access.keys import ApiKey, key_id, matches, new_key

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def make(**changes: Any) -> tuple[str, ApiKey]:
    options: dict[str, Any] = {"scopes": ("search",), "tenant": None, "rate": None, "created": NOW, "expires": None}
    return new_key("shop", **{**options, **changes})


def test_a_key_has_256_random_bits_and_only_its_hash_is_stored() -> None:
    keys = [make() for _ in range(50)]
    secrets = {key.rpartition("_")[2] for key, _ in keys}
    assert len(secrets) == 50
    assert all(len(bytes.fromhex(secret)) == 32 for secret in secrets)
    for key, stored in keys:
        assert stored.sha256 == hashlib.sha256(key.encode()).hexdigest()
        assert key.rpartition("_")[2] not in stored.model_dump_json()
        assert key.startswith(f"ms_{stored.id}_")


def test_only_the_whole_key_matches() -> None:
    key, stored = make()
    other, _ = make()
    assert matches(stored, key)
    wrong = "0" if key[-1] != "0" else "1"
    for text in (other, key[:-1], key + "0", key[:-1] + wrong, key.upper(), "", stored.sha256, f" {key}"):
        assert not matches(stored, text)
    assert not matches(None, key)


def test_a_stored_hash_of_zeros_lets_nobody_in_without_a_key() -> None:
    assert not matches(None, "ms_000000000000_" + "0" * 64)


def test_the_id_is_found_in_what_looks_like_a_key_only() -> None:
    key, stored = make()
    assert key_id(key) == stored.id
    for text in (
        "",
        "ms_",
        key[:-1],
        key + "\n",
        key.replace("ms_", "xs_"),
        key.replace("a", "ａ") + "a",
        "x" * 100_000,
    ):
        assert key_id(text) is None


def test_a_key_expires_at_its_time() -> None:
    _, stored = make(expires=NOW + timedelta(days=1))
    assert not stored.expired(NOW + timedelta(hours=23, minutes=59))
    assert stored.expired(NOW + timedelta(days=1))
    assert not make()[1].expired(datetime.max.replace(tzinfo=UTC))


def test_the_caller_has_name_tenant_and_scopes() -> None:
    caller = make(tenant="acme", scopes=("admin",))[1].caller
    assert (caller.name, caller.tenant, caller.scopes) == ("shop", "acme", {"admin"})
    assert caller.may("search")
    assert not make()[1].caller.may("admin")


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": ""},
        {"tenant": " "},
        {"tenant": "x" * 1_025},
        {"tenant": "\ud800"},
        {"rate": 0},
        {"rate": -1},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"scopes": ()},
        {"scopes": ("root",)},
        {"expires": datetime(2026, 1, 1)},  # noqa: DTZ001 - without a time zone on purpose
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**changes)
