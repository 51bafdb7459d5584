"""Tokens of an OpenID provider: only those it signed for us, for their time, and with their tenant."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from consumers.http.problems import HttpProblem
from consumers.query.access import Caller, OidcTokens
from consumers.query.access.oidc import ALGORITHMS
from consumers.query.access.signing_keys import SigningKeys, is_safe
from tests.support.rigs.issuer import AUDIENCE, Issuer, running_issuer
from tests.support.rigs.search import Clock

DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


class Tokens:
    """The verifier with a clock for its cache of keys."""

    def __init__(self, issuer: Issuer, **options: Any) -> None:
        self.clock = Clock()
        keys = SigningKeys(issuer.address, ALGORITHMS, self.clock)
        self.verifier = OidcTokens(issuer.address, AUDIENCE, keys=keys, **options)

    def callers(self, *tokens: str) -> list[Caller | HttpProblem]:
        """Callers, or refusals, of tokens that arrive one after another."""

        async def run() -> list[Caller | HttpProblem]:
            found: list[Caller | HttpProblem] = []
            for token in tokens:
                try:
                    found.append(await self.verifier.caller(token))
                except HttpProblem as error:
                    found.append(error)
            return found

        return asyncio.run(run())

    def caller(self, token: str) -> Caller:
        (found,) = self.callers(token)
        assert isinstance(found, Caller), found
        return found

    def refused(self, token: str, status: int = 401) -> str:
        (found,) = self.callers(token)
        assert isinstance(found, HttpProblem), found
        assert found.problem.status == status, found
        if status == 401:
            assert found.headers is not None
            assert found.headers["www-authenticate"].startswith("Bearer ")
        assert token not in found.problem.detail or not token
        return found.problem.detail


@pytest.fixture
def tokens(issuer: Issuer) -> Tokens:
    return Tokens(issuer)


@pytest.mark.parametrize("kid", ["rsa", "ec"])
def test_a_token_of_the_issuer_is_its_subject(tokens: Tokens, issuer: Issuer, kid: str) -> None:
    caller = tokens.caller(issuer.token(kid, sub="ada", aud=["other", AUDIENCE]))
    assert (caller.name, caller.tenant, caller.scopes) == ("ada", None, {"search"})


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def claims_of(issuer: Issuer) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(issuer.token(), options={"verify_signature": False})
    return claims


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, ["RS256"], {"a": 1}])
def test_a_token_without_a_signature_is_refused(tokens: Tokens, issuer: Issuer, algorithm: object) -> None:
    tokens.refused(unsigned({"alg": algorithm, "kid": "rsa"}, claims_of(issuer)))
    assert issuer.reads == {}, "no wrong token makes us read anything"


def test_the_public_key_is_no_secret_to_sign_with(tokens: Tokens, issuer: Issuer) -> None:
    public = issuer.private["rsa"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head = unsigned({"alg": "HS256", "kid": "rsa", "typ": "JWT"}, claims_of(issuer)).rpartition(".")[0]
    signature = hmac.new(pem, head.encode(), hashlib.sha256).digest()
    tokens.refused(f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}")


def test_a_published_secret_verifies_nothing(issuer: Issuer) -> None:
    secret = b"0123456789abcdef0123456789abcdef"
    issuer.published.append(
        {"kty": "oct", "kid": "oct", "k": base64.urlsafe_b64encode(secret).decode(), "alg": "HS256", "use": "sig"}
    )
    Tokens(issuer).refused(issuer.token("oct", key=secret, algorithm="HS256"))


def test_another_key_with_the_same_name_is_refused(tokens: Tokens, issuer: Issuer) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    tokens.refused(issuer.token("rsa", key=stranger))
    tokens.refused(issuer.token("ec", key=stranger, algorithm="RS256"))
    tokens.refused(issuer.token("rsa", key=issuer.private["rsa"], algorithm="RS512"))


def test_a_short_key_is_refused(tokens: Tokens, issuer: Issuer) -> None:
    issuer.private["short"] = short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    public = jwt.algorithms.RSAAlgorithm.to_jwk(short.public_key(), as_dict=True)
    issuer.published.append({**public, "kid": "short", "alg": "RS256"})
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = issuer.token("short")
    tokens.refused(token)


def test_a_changed_token_is_refused(tokens: Tokens, issuer: Issuer) -> None:
    head, claims, signature = issuer.token(sub="ada").split(".")
    other = issuer.token(sub="bob").split(".")[1]
    for token in (
        f"{head}.{other}.{signature}",
        f"{head}.{claims}.",
        f"{head}.{claims}",
        f"{head}.{claims}.{signature}x",
    ):
        tokens.refused(token)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": int(time.time()) - 60}, "expired"),
        ({"exp": None}, "not valid"),
        ({"exp": "soon"}, "not valid"),
        ({"exp": float("inf")}, "not valid"),
        ({"nbf": int(time.time()) + 3_600}, "not valid"),
        ({"iat": int(time.time()) + 3_600}, "not valid"),
        ({"aud": "another"}, "audience"),
        ({"aud": None}, "not valid"),
        ({"aud": []}, "not valid"),
        ({"iss": "https://evil.example"}, "issuer"),
        ({"iss": None}, "not valid"),
        ({"sub": None}, "not valid"),
        ({"sub": 5}, "not valid"),
    ],
)
def test_claims_that_do_not_fit_are_refused(tokens: Tokens, issuer: Issuer, claims: dict[str, Any], said: str) -> None:
    assert said in tokens.refused(issuer.token(**claims))


def test_clocks_may_differ_by_half_a_minute(tokens: Tokens, issuer: Issuer) -> None:
    now = int(time.time())
    assert tokens.caller(issuer.token(exp=now - 15)).name == "somebody"
    assert tokens.caller(issuer.token(nbf=now + 15, iat=now + 15)).name == "somebody"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "x" * 8_193,
        "=" * 100,
        "e30.e30.e30",
        "W10.e30.",
        unsigned({"alg": "RS256"}, {}, b"x"),
    ]
    + [unsigned({"alg": "RS256", "kid": kid}, {}, b"x") for kid in ("../../etc/passwd", "' or 1=1", 5, None, ["rsa"])]
    + [unsigned({"alg": "RS256", "kid": "rsa", "crit": ["exp"]}, {}, b"x")],
)
def test_what_is_no_token_is_refused(tokens: Tokens, token: str) -> None:
    tokens.refused(token)


def test_addresses_in_a_token_are_not_read(tokens: Tokens, issuer: Issuer) -> None:
    header = {"kid": "elsewhere", "jku": f"{issuer.address}/evil", "x5u": f"{issuer.address}/evil"}
    token = jwt.encode(claims_of(issuer), issuer.private["rsa"], algorithm="RS256", headers=header)
    tokens.refused(token)
    assert set(issuer.reads) == {DISCOVERY, KEYS}


def test_the_tenant_is_a_claim_and_a_token_without_it_sees_nothing(issuer: Issuer) -> None:
    tokens = Tokens(issuer, tenant_claim="org")
    assert tokens.caller(issuer.token(org="acme")).tenant == "acme"
    assert tokens.caller(issuer.token(org=7)).tenant == "7", "as a record's integer tenant"
    for wrong in (None, "", " ", True, 1.5, ["acme"], {"a": 1}, "x" * 1_025):
        assert "org" in tokens.refused(issuer.token(org=wrong), 403)


def test_scopes_are_a_claim(issuer: Issuer) -> None:
    tokens = Tokens(issuer, scope_claim="scope")
    assert tokens.caller(issuer.token(scope="openid search")).scopes == {"search"}
    assert tokens.caller(issuer.token(scope=["admin", 1, {}])).scopes == {"admin"}
    for nothing in (None, "", "searching admins", 5, {"search": 1}):
        assert tokens.caller(issuer.token(scope=nothing)).scopes == frozenset()
    assert Tokens(issuer).caller(issuer.token(scope="admin")).scopes == {"search"}


def test_keys_are_read_once_and_again_when_an_unknown_one_is_named(tokens: Tokens, issuer: Issuer) -> None:
    tokens.callers(*[issuer.token()] * 5)
    assert issuer.reads == {DISCOVERY: 1, KEYS: 1}
    issuer.add("new", "RS256")
    tokens.refused(issuer.token("new"))
    assert issuer.reads[KEYS] == 1, "they were read a moment ago"
    tokens.clock.now += 30
    assert tokens.caller(issuer.token("new")).name == "somebody"
    strangers = [unsigned({"alg": "RS256", "kid": f"{number}"}, {}, b"x") for number in range(50)]
    tokens.callers(*strangers)
    assert issuer.reads[KEYS] == 2, "names of keys cost the issuer nothing"


def test_many_tokens_at_a_time_read_the_keys_once(issuer: Issuer) -> None:
    tokens = Tokens(issuer)

    async def run() -> list[Caller]:
        return await asyncio.gather(*(tokens.verifier.caller(issuer.token()) for _ in range(20)))

    assert len(asyncio.run(run())) == 20
    assert issuer.reads[KEYS] == 1


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (DISCOVERY, (500, b"")),
        (DISCOVERY, (200, b"no JSON")),
        (DISCOVERY, (200, b"[" * 100_000)),
        (DISCOVERY, (200, b'{"issuer": "https://another.example", "jwks_uri": "https://another.example/keys"}')),
        (KEYS, (200, b" " * 300_000)),
        (KEYS, (200, b'{"keys": []}')),
        (KEYS, (200, b'{"keys": [5, {}, {"kty": "oct"}, {"kty": "RSA", "n": 5}, {"kty": "EC", "crv": []}]}')),
        (KEYS, (200, b'{"keys": "rsa"}')),
        (KEYS, (302, b"/elsewhere")),
    ],
)
def test_an_issuer_that_gives_no_keys_is_503_and_left_alone_for_a_while(
    tokens: Tokens, issuer: Issuer, path: str, answer: tuple[int, bytes]
) -> None:
    issuer.answers[path] = answer
    with structlog.testing.capture_logs() as lines:
        found = tokens.callers(*[issuer.token()] * 5)
    assert [one.problem.status for one in found if isinstance(one, HttpProblem)] == [503] * 5
    assert issuer.reads[path] == 1
    assert "/elsewhere" not in issuer.reads
    assert [line["event"] for line in lines] == ["access.issuer_unread"]
    del issuer.answers[path]
    tokens.clock.now += 1
    assert tokens.caller(issuer.token()).name == "somebody"


@pytest.mark.parametrize(
    "address", ["http://keys.example/k", "file:///etc/passwd", "//x", "", 5, "http://127.0.0.1.evil.example/k"]
)
def test_keys_are_read_over_https_or_from_this_machine(tokens: Tokens, issuer: Issuer, address: object) -> None:
    document = {"issuer": issuer.address, "jwks_uri": address}
    issuer.answers[DISCOVERY] = 200, json.dumps(document).encode()
    tokens.refused(issuer.token(), 503)


def test_which_addresses_are_safe() -> None:
    assert all(map(is_safe, ("https://a.example/k", "http://127.0.0.1:1/k", "http://[::1]/k", "http://localhost/k")))
    assert not any(
        map(is_safe, ("http://a.example", "https://", "http://localhost.evil.example", "http://[", "ftp://a"))
    )


def test_an_issuer_that_is_away_does_not_lock_out_at_once_but_in_the_end(tokens: Tokens, issuer: Issuer) -> None:
    token = issuer.token(exp=int(time.time()) + 86_400)
    assert tokens.caller(token).name == "somebody"
    issuer.answers[KEYS] = 500, b""
    for _ in range(11):
        tokens.clock.now += 300
        assert tokens.caller(token).name == "somebody"
    tokens.clock.now += 300
    tokens.refused(token, 503)
    del issuer.answers[KEYS]
    tokens.clock.now += 60
    assert tokens.caller(token).name == "somebody"


def test_a_withdrawn_key_is_refused_when_the_keys_are_read_again(tokens: Tokens, issuer: Issuer) -> None:
    token = issuer.token()
    assert tokens.caller(token).name == "somebody"
    del issuer.published[0]
    tokens.clock.now += 300

    async def run() -> None:
        await tokens.verifier.caller(token)  # the keys of before, while they are read again
        assert tokens.verifier._keys._background is not None
        await tokens.verifier._keys._background

    asyncio.run(run())
    tokens.refused(token)
