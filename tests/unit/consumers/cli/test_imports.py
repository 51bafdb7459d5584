"""What the light commands import: nothing that takes long and that they do not use."""

import json
import subprocess
import sys

import pytest

MODEL = {"torch", "transformers", "sentence_transformers", "tokenizers", "safetensors", "huggingface_hub", "openvino"}
MILVUS = {"pymilvus", "grpc", "pandas"}
SERVERS = {"fastapi", "starlette", "uvicorn", "h11", "httpx"}
HEAVY = MODEL | MILVUS | SERVERS
HELP_OF_ALL = """
import contextlib, io, json, sys
from typer.main import get_command
from consumers.cli.app import app

def commands(command, path):
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))

seen, imported = set(), {}
for path in commands(get_command(app), ()):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        app([*path, "--help"])
    assert "Usage:" in text.getvalue(), path
    imported[" ".join(path)] = sorted({name.partition(".")[0] for name in sys.modules} - seen)
    seen.update(*imported.values())
print(json.dumps(imported))
"""
COMMAND = """
import json, sys
from consumers.cli.app import app
sys.stdout = open("/dev/null", "w")
try:
    app(sys.argv[1:])
except SystemExit as ended:
    assert not ended.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.__stdout__)
"""


def _python(code: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def test_no_help_imports_what_only_a_running_command_needs() -> None:
    imported: dict[str, list[str]] = json.loads(_python(HELP_OF_ALL))
    assert {"", "ingest", "config show", "dlq retry", "collections drop", "bench embed", "local up"} <= set(imported)
    assert "typer" in imported[""]
    not_needed = HEAVY | {"numpy", "kafka", "rich", "structlog", "prometheus_client", "yaml", "orjson", "asyncio"}
    assert {path: found for path, names in imported.items() if (found := not_needed & set(names))} == {}


@pytest.mark.parametrize(
    ("command", "not_needed"),
    [
        ("show", {"numpy", "kafka", "prometheus_client"}),
        ("schema", {"numpy", "kafka", "prometheus_client", "structlog", "rich"}),
        ("lint", set()),  # the Kafka client knows which of its options exist
    ],
)
def test_the_configuration_is_shown_and_checked_without_what_runs_it(command: str, not_needed: set[str]) -> None:
    names = json.loads(_python(COMMAND, "config", command))
    assert "pydantic" in names
    assert set(names) & (HEAVY | not_needed) == set()
