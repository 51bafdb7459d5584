"""The settings of access: combinations that would let more people in than meant are refused."""

import pytest

from consumers.config import load_settings
from pipeline.errors import UsageError

ISSUER, AUDIENCE = "query.auth.oidc.issuer=https://id.example", "query.auth.oidc.audience=search"


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ([ISSUER], "audience is missing"),
        ([AUDIENCE], "issuer is missing"),
        (["query.auth.oidc.tenant_claim=org"], "issuer is missing"),
        (["query.auth.oidc.issuer=http://id.example", AUDIENCE], "https"),
        (["query.auth.oidc.issuer=http://localhost.example", AUDIENCE], "https"),
        (["query.auth.oidc.issuer=ftp://id.example", AUDIENCE], "https"),
        (["query.auth.oidc.issuer=id.example", AUDIENCE], "https"),
        (["query.auth.mode=none", "query.auth.keys_file=keys.json"], "none"),
        (["query.auth.mode=none", ISSUER, AUDIENCE], "none"),
        (["query.auth.mode=off"], "auth.mode"),
        (["query.auth.keyfile=keys.json"], "keys_file"),
        (["query.auth.oidc.tenant=org"], "tenant_claim"),
    ],
)
def test_what_would_let_too_many_in_is_refused(sets: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_settings(None, {}, sets)


def test_an_issuer_on_this_machine_may_be_without_tls() -> None:
    for issuer in (
        "http://localhost:8081/realms/x",
        "http://127.0.0.1:8081",
        "http://[::1]:8081",
        "https://id.example/",
    ):
        settings = load_settings(None, {}, [f"query.auth.oidc.issuer={issuer}", AUDIENCE])
        assert settings.query.auth.oidc.issuer == issuer


def test_the_environment_reaches_every_setting() -> None:
    env = {"MILVUS_STREAM__QUERY__AUTH__OIDC__ISSUER": "https://id.example",
           "MILVUS_STREAM__QUERY__AUTH__OIDC__AUDIENCE": "a", "MILVUS_STREAM__QUERY__AUTH__KEYS_FILE": "/k.json",
           "MILVUS_STREAM__QUERY__TELEMETRY_PORT": "9464"}  # fmt: skip
    query = load_settings(None, env).query
    assert (query.auth.oidc.audience, str(query.auth.keys_file), query.telemetry_port) == ("a", "/k.json", 9464)
