"""The fuzzer's checks on answers that are wrong, its variants, and its report."""

import base64
import gzip
import json
import random
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.fuzz.checks import Checks
from tests.fuzz.report import Report
from tests.fuzz.sent import Received, Sent
from tests.fuzz.variants import variants

BODY = {"type": "object", "properties": {"query": {"type": "string"}}, "additionalProperties": False}
DOCUMENT = {
    "paths": {
        "/v1/search": {
            "post": {
                "requestBody": {"content": {"application/json": {"schema": BODY}}},
                "responses": {
                    "200": {"content": {"application/json": {"schema": {"type": "object", "required": ["results"]}}}},
                    "422": {},
                },
            }
        },
        "/v1/embeddings": {"post": {"responses": {"200": {}, "400": {}}}},
    }
}
SENT = Sent("POST", "/v1/search", "POST /v1/search", b'{"query": "q"}', {"content-type": "application/json"})
PACKED = {"content-type": "application/json", "content-encoding": "gzip"}
AGAINST = "accepted against the schema of the request"
OPENAI = replace(SENT, path="/v1/embeddings", route="POST /v1/embeddings")
PROBLEM = {"type": "urn:x", "title": "t", "status": 422, "detail": "d", "at": "/query"}
GOOD = Received(200, "application/json", b'{"results": []}', 0.1)


def refusal(status: int = 422, kind: str = "application/problem+json", **changes: object) -> Received:
    return Received(status, kind, json.dumps({**PROBLEM, "status": status, **changes}).encode(), 0.1)


def validate(schema: Mapping[str, Any], value: Any) -> str | None:
    error = next(jsonschema.Draft202012Validator(schema).iter_errors(value), None)
    return None if error is None else error.message


def found(sent: Sent, received: Received) -> list[str]:
    return [name for name, _ in Checks(DOCUMENT, validate, most_s=5.0).findings(sent, received)]


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (SENT, GOOD),
        (SENT, refusal()),
        (SENT, refusal(at="")),
        (SENT, refusal(415)),
        (replace(SENT, body=b'{"timeout_ms": 10}'), refusal(504)),
        (replace(SENT, body=gzip.compress(b'{"timeout_ms": 10}'), headers=PACKED), refusal(504)),
        (replace(SENT, body=b'{"timeout_ms": 9000}'), replace(refusal(), seconds=13.0)),
        (replace(SENT, method="HEAD"), Received(200, "application/json", b"", 0.1)),
        (OPENAI, Received(400, "application/json", b'{"error":{"message":"m","type":"","param":null,"code":""}}', 0.1)),
    ],
)
def test_what_is_right_is_no_finding(sent: Sent, received: Received) -> None:
    document: Any = json.loads(json.dumps(DOCUMENT))
    document["paths"]["/v1/search"]["post"]["responses"]["504"] = {}
    assert list(Checks(document, validate, most_s=5.0).findings(sent, received)) == []


@pytest.mark.parametrize(
    ("sent", "received", "name"),
    [
        (SENT, refusal(500), "server error"),
        (SENT, refusal(503), "server error"),
        (SENT, refusal(504), "server error"),
        (SENT, replace(GOOD, seconds=5.1), "slow"),
        (SENT, replace(GOOD, body=b"<html>"), "no JSON"),
        (SENT, replace(GOOD, body=b'{"results": NaN}'), "no JSON"),
        (SENT, replace(GOOD, body=b"{}"), "answer against its schema"),
        (SENT, replace(GOOD, kind="text/html"), "content type"),
        (SENT, replace(GOOD, status=302), "unexpected status"),
        (replace(SENT, body=b'{"qurey": "q"}'), GOOD, "accepted against the schema of the request"),
        (replace(SENT, body=b'{"query": '), GOOD, "accepted what is no JSON"),
        (replace(SENT, body=gzip.compress(b'{"query": 1}'), headers=PACKED), GOOD, AGAINST),
        (replace(SENT, body=b"no gzip", headers=PACKED), GOOD, "accepted what is no JSON"),
        (SENT, refusal(kind="application/json"), "content type of an error"),
        (SENT, refusal(detail=""), "an error is a problem"),
        (SENT, replace(refusal(404), status=422), "an error is a problem"),
        (SENT, Received(422, "application/problem+json", b'{"detail": []}', 0.1), "an error is a problem"),
        (SENT, refusal(at="query"), "a refusal names the place"),
        (
            SENT,
            Received(422, "application/problem+json", json.dumps({**PROBLEM, "at": "/~2"}).encode(), 0.1),
            "a refusal names the place",
        ),
        (SENT, refusal(418), "undescribed status"),
        (replace(SENT, method="HEAD"), GOOD, "HEAD with a body"),
        (OPENAI, Received(400, "application/json", b'{"error":{"message":"m"}}', 0.1), "an error in OpenAI's shape"),
        (SENT, Received(400, "application/json", b'{"error":{}}', 0.1), "an error is a problem"),
    ],
)
def test_what_is_wrong_is_found(sent: Sent, received: Received, name: str) -> None:
    assert name in found(sent, received)


def test_variants_are_the_same_for_a_seed_and_many_kinds() -> None:
    known = {"query": ["q"], "limit": [1]}
    first, second = (list(islice(variants(SENT, known, random.Random(7)), 400)) for _ in range(2))
    assert first == second
    assert first != list(islice(variants(SENT, known, random.Random(8)), 400))
    assert len({(one.path, one.body, str(one.headers)) for one in first}) > 120
    assert {one.headers.get("content-encoding") for one in first} >= {None, "gzip"}
    assert b'{"query": "q"}' in {one.body for one in first}
    reads = list(islice(variants(Sent("GET", "/v1/x?query=a", "GET /v1/x"), known, random.Random(7)), 100))
    assert {one.method for one in reads} == {"GET", "HEAD"}
    assert all(one.body is None for one in reads)


def test_the_command_sends_the_same_bytes_again() -> None:
    sent = replace(SENT, body=bytes(range(256)), headers={"content-type": "a'b"})
    command = sent.command("http://127.0.0.1:1")
    packed = re.match(r"printf %s (\S+) \| base64 -d \| (.*)", command)
    assert packed is not None
    assert base64.b64decode(packed[1]) == sent.body
    assert {"content-type: a'b", "http://127.0.0.1:1/v1/search", "@-"} <= set(shlex.split(packed[2]))


def test_a_report_counts_and_shows_a_finding_once() -> None:
    report = Report("http://w")
    for number in range(3):
        report.add(SENT, replace(GOOD, seconds=0.1 * number))
        report.find("server error", f"500 of many, such as this one and its cause {number}", SENT)
    report.add(OPENAI, refusal(400))
    text = "\n".join(report.lines(2.0))
    assert "4 requests in 2 s (2/s" in text
    assert "75% accepted" in text
    assert "slowest: 200 ms, POST /v1/search" in text
    assert "server error: POST /v1/search, 3 times" in text
    assert "printf %s" in text
    assert (report.as_dict(2.0)["findings"], report.requests) == (1, 4)
