from datetime import timedelta
from pathlib import Path

import pytest

from consumers.config import Settings, load_settings, masked_values
from pipeline.errors import UsageError


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("kafka: {group_id: from-file, topics: [a, b]}\nbatch: {max_records: 7}\n")
    env = {"MILVUS_STREAM__KAFKA__GROUP_ID": "from-env", "MILVUS_STREAM__BATCH__MAX_WAIT": "2s"}

    settings = load_settings(file, env, ["batch.max_wait=3s"])

    assert settings.kafka.group_id == "from-env"
    assert settings.kafka.topics == ("a", "b")
    assert settings.batch.max_records == 7
    assert settings.batch.max_wait == timedelta(seconds=3)
    assert settings.milvus.collection == "documents"


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["kafk.topics=a"], "unknown setting kafk: did you mean kafka?"),
        (["batch.max_recrods=5"], "unknown setting batch.max_recrods: did you mean batch.max_records?"),
        (["batch.max_wait=5"], "batch.max_wait: write a number with a unit"),
        (["batch.max_bytes=many"], "batch.max_bytes: write a number of bytes"),
        (["batch.max_bytes=5ib"], "batch.max_bytes: write a number of bytes"),
        (["batch.max_bytes=1MiB or so"], "batch.max_bytes: write a number of bytes"),
        (["partitioning.retention=90d"], "partitioning.retention: it is partitioning.max_event_age now"),
        (["partitioning.too_old=dead_letter"], "unknown setting partitioning.too_old"),
        (
            ["record.format=xml"],
            "record.format: must be one of auto, json, text, debezium, cloudevents, avro, protobuf, json_schema",
        ),
        (["milvus=5"], "setting milvus: expected keys below it"),
        (["nonsense"], "write --set section.key=value"),
        (["milvus.collection=has space"], "milvus.collection"),
        (["milvus.token=${NOT_SET}"], "environment variable NOT_SET is not set"),
        (["milvus.token=file:/does/not/exist"], "cannot read the secret's file"),
        (["kafka.topics=[]"], "kafka.topics"),
        (["kafka.topic=a"], "unknown setting kafka.topic: did you mean kafka.topics?"),
        (["kafka.dead_letter_topic=documents"], "a loop"),
        (["embedding.token_budget=3"], "embedding.token_budget"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(sets: list[str], says: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_settings(None, {}, sets)
    assert says in str(raised.value)


@pytest.mark.parametrize("content", ["kafka: [", "- a\n- b\n", "just text", "kafka: 5", "\x00"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"broken\.yaml|setting kafka"):
        load_settings(file, {}, [])


def test_a_missing_file_is_an_error_only_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(None, {}, []).mode == "upsert"
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        load_settings(tmp_path / "nowhere.yaml", {}, [])


def test_secrets_come_from_environment_or_file_and_are_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("from-a-file\n")
    settings = load_settings(
        None, {"PW": "from-env"}, [f"milvus.token=file:{secret}", "kafka.sasl_plain_password=${PW}"]
    )

    assert settings.milvus.token is not None
    assert settings.milvus.token.get_secret_value() == "from-a-file"
    assert settings.kafka.client_options == {"sasl_plain_password": "from-env"}
    printed = str(masked_values(settings)) + repr(settings.milvus)
    assert "from-a-file" not in printed
    assert "from-env" not in str(masked_values(settings))


def test_what_is_shown_loads_again_to_the_same(tmp_path: Path) -> None:
    import yaml

    settings = load_settings(
        None, {}, ["partitioning.max_event_age=90d", "batch.max_bytes=3MiB", "milvus.index.type=FLAT"]
    )
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(masked_values(settings)))
    assert load_settings(file, {}, []) == settings


@pytest.mark.parametrize(
    ("text", "size"), [("7", 7), ("1MiB", 2**20), ("512 kib", 2**19), ("8MB", 8_000_000), ("1.5KiB", 1536)]
)
def test_sizes(text: str, size: int) -> None:
    assert load_settings(None, {}, [f"batch.max_bytes={text}"]).batch.max_bytes == size


def test_the_schema_names_the_formats() -> None:
    schema = Settings.model_json_schema()["$defs"]["RecordSection"]["properties"]["format"]
    assert schema["enum"] == ["auto", "json", "text", "debezium", "cloudevents", "avro", "protobuf", "json_schema"]


def test_another_index_type_does_not_inherit_the_parameters_of_hnsw() -> None:
    assert load_settings(None, {}, ["milvus.index.type=IVF_FLAT"]).milvus.index.params == {}
    assert load_settings(None, {}, []).milvus.index.params == {"M": 16, "efConstruction": 200}


def test_an_analyzer_is_a_name_or_a_map_and_off_a_word(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("milvus: {sparse: off, analyzer: {tokenizer: standard, filter: [lowercase]}}\n")
    milvus = load_settings(file, {}, []).milvus
    assert (milvus.sparse, milvus.analyzer) == ("off", {"tokenizer": "standard", "filter": ["lowercase"]})
    for sets in (['milvus.analyzer={"tokenizer": "jieba"}'], ["milvus.analyzer.tokenizer=jieba"]):
        assert load_settings(None, {}, sets).milvus.analyzer == {"tokenizer": "jieba"}
    assert load_settings(None, {"MILVUS_STREAM__MILVUS__ANALYZER": "english"}, []).milvus.analyzer == "english"
    for wrong in ("milvus.analyzer=[1]", "milvus.sparse=true", "milvus.analyzer={"):
        with pytest.raises(UsageError, match=r"milvus\.(analyzer|sparse)"):
            load_settings(None, {}, [wrong])
