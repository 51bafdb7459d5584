"""`init`: the file it writes is valid, complete and never an existing one."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from consumers.config import json_schema, load_settings, starter_yaml

TOPICS = st.from_regex(r"[A-Za-z0-9._-]{1,60}", fullmatch=True)


def init(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "consumers.cli", "init", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_file_is_accepted_and_checked_by_the_schema_beside_it(tmp_path: Path) -> None:
    done = init(tmp_path, "--topic", "1.news", "--bootstrap", "a:1,b:2", "--milvus", "https://m.example:443")
    assert (done.returncode, done.stdout) == (0, "milvus-stream.yaml\n"), done.stderr
    text = (tmp_path / "milvus-stream.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=milvus-stream.schema.json\n")
    schema = json.loads((tmp_path / "milvus-stream.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(text), schema)
    settings = load_settings(tmp_path / "milvus-stream.yaml", {})
    assert (settings.kafka.topics, settings.kafka.bootstrap_servers) == (("1.news",), "a:1,b:2")
    assert (settings.milvus.uri, settings.milvus.collection) == ("https://m.example:443", "c_1_news")


def test_what_is_commented_out_is_accepted_too(tmp_path: Path) -> None:
    text = starter_yaml("localhost:9092", "http://localhost:19530", "documents", "documents", "x.json")
    lines = [
        line.replace("# ", "", 1) if ": " in line.partition("# ")[2].partition("  #")[0] else line
        for line in text.splitlines()[3:]
    ]
    (tmp_path / "all.yaml").write_text("\n".join(lines))
    settings = load_settings(tmp_path / "all.yaml", {"KAFKA_PASSWORD": "p", "MILVUS_TOKEN": "t"})
    assert settings.kafka.client_options["sasl_plain_password"] == "p"
    assert settings.milvus.token is not None
    assert settings.record.version_field == "version"


@given(TOPICS)
def test_every_topic_is_the_text_it_was(topic: str) -> None:
    values = yaml.safe_load(starter_yaml("localhost:9092", "x.db", topic, "c", "s"))
    assert values["kafka"]["topics"] == [topic]
    assert values["kafka"]["dead_letter_topic"] == f"{topic}.dlq"


def test_an_existing_file_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("mode: append\n")
    done = init(tmp_path, "own.yaml")
    assert done.returncode == 2
    assert "own.yaml exists already" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]
    assert (tmp_path / "own.yaml").read_text() == "mode: append\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bootstrap", "localhost"], "--bootstrap localhost: write HOST:PORT"),
        (["--collection", "9-x"], "milvus.collection"),
        (["none/here.yaml"], "cannot be written"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_written(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = init(tmp_path, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_setting_of_the_schema_says_what_it_is() -> None:
    schema = json_schema()
    sections = {"": schema, **schema["$defs"]}
    silent = [
        f"{section}.{name}"
        for section, about in sections.items()
        for name, setting in about.get("properties", {}).items()
        if "$ref" not in setting and not setting.get("description")
    ]
    assert silent == []
    assert "PT" not in str(
        [setting.get("default") for setting in schema["$defs"]["KafkaSection"]["properties"].values()]
    )


@pytest.mark.parametrize("written", ["kafka: {max_record_bytes: 2MiB}", "kafka: {session_timeout: 30s}"])
def test_an_editor_accepts_units(written: str) -> None:
    jsonschema.validate(yaml.safe_load(written), json_schema())


def test_an_editor_refuses_what_the_loader_refuses() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"milvus": {"colection": "x"}}, json_schema())
