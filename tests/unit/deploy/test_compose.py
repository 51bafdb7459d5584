"""docker-compose.yml: schema-checked and held to this project's rules; its parts must know each other's addresses."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers.config import Settings, load_settings
from pipeline.timestamps import parse_duration

ROOT = Path(__file__).parents[3]
FILE = ROOT / "docker-compose.yml"
WORKERS = ("ingest", "ingest-gpu", "query", "rekey")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The whole file, anchors and merges resolved."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The services by name."""
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def settings_of(compose: dict[str, Any], service: str) -> Settings:
    """What the service's process would read: the mounted file and its environment."""
    worker = compose["services"][service]
    (mount,) = worker["configs"]
    assert worker["command"][worker["command"].index("--config") + 1] == mount["target"]
    return load_settings(mounted_file(compose, mount["source"]), worker.get("environment", {}))


def mounted_file(compose: dict[str, Any], name: str) -> Path:
    """The file of one of the top-level configs, which lies beside docker-compose.yml."""
    config = compose["configs"][name]
    # An engine mounts a file, but copies `content` into the container: refused where the root is read-only.
    assert list(config) == ["file"]
    file = FILE.parent / str(config["file"])
    assert file.resolve().is_relative_to(ROOT)
    return file


def schema_check(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_file_passes_the_compose_schema() -> None:
    result = schema_check(FILE)

    assert result.returncode == 0, result.stdout


def test_the_schema_check_sees_a_misspelt_key(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(FILE.read_text().replace("stop_grace_period: 90s", "stop_grace_perod: 90s"))

    result = schema_check(broken)

    assert result.returncode == 1
    assert "stop_grace_perod" in result.stdout


def test_the_workers_configuration_is_valid_and_finds_kafka_and_milvus(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    listeners = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    for name in WORKERS:
        settings = settings_of(compose, name)
        assert f"PLAINTEXT://{settings.kafka.bootstrap_servers}" in listeners
        assert settings.milvus.uri == "http://milvus:19530"
        # The section passes what it does not know to the Kafka client: a misspelt key would end up here.
        assert settings.kafka.client_options == {}


def test_every_source_topic_is_created_before_the_workers_start(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    settings = settings_of(compose, "ingest")
    init = services["topics-init"]

    assert [init["command"][init["command"].index("--topic") + 1]] == list(settings.kafka.topics)
    assert settings.kafka.bootstrap_servers in init["entrypoint"]
    for name in ("ingest", "ingest-gpu"):
        assert services[name]["depends_on"]["topics-init"] == {"condition": "service_completed_successfully"}
    # The broker makes no topic by itself, so the worker has to make its dead-letter topic.
    assert settings.kafka.create_dead_letter_topic


def test_kafka_keeps_its_data_where_the_volume_is(services: dict[str, dict[str, Any]]) -> None:
    (volume,) = services["kafka"]["volumes"]

    assert volume.split(":")[1] == services["kafka"]["environment"]["KAFKA_LOG_DIRS"]


def test_the_kill_comes_ten_seconds_after_the_drain_or_later(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    for name in WORKERS:
        drain = settings_of(compose, name).shutdown_timeout.total_seconds()
        assert parse_duration(services[name]["stop_grace_period"]).total_seconds() >= drain + 10, name


def test_nothing_listens_beyond_this_machine(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]

    assert {port.rsplit(":", 1)[1] for port in published} == {"9092", "19530", "8080"}
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_dependencies_wait_for_a_health_check_that_exists(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            assert wait["condition"] != "service_started", name
            assert wait["condition"] != "service_healthy" or "healthcheck" in services[other], f"{name} -> {other}"


def test_health_checks_ask_the_ports_in_force(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    for name in WORKERS:
        settings = settings_of(compose, name)
        port = settings.query.port if name == "query" else settings.telemetry.port
        assert f"http://127.0.0.1:{port}/healthz" in services[name]["healthcheck"]["test"][-1]
    query = settings_of(compose, "query").query
    assert services["query"]["ports"] == [f"127.0.0.1:{query.port}:{query.port}"]
    assert query.host == "0.0.0.0"
    assert query.auth.mode == "none", "the line above says that the port is published on loopback only"


def test_a_health_check_is_a_working_program(services: dict[str, dict[str, Any]]) -> None:
    for name in WORKERS:
        kind, python, option, program = services[name]["healthcheck"]["test"]
        assert (kind, python, option) == ("CMD", "python", "-c")
        # Nothing listens on port 1: the check has to get as far as a refused connection, and fail.
        refused = program.replace("9464", "1").replace("8080", "1")
        result = subprocess.run([sys.executable, "-c", refused], check=False, capture_output=True, text=True)
        assert result.returncode == 1
        assert "Connection refused" in result.stderr


def test_images_are_pinned(services: dict[str, dict[str, Any]], project_version: str) -> None:
    for name, service in services.items():
        image, _, tag = service["image"].partition(":")
        assert any(character.isdigit() for character in tag), f"{name}: {service['image']}"
        if image == "milvus-stream":
            assert tag == project_version


def test_workers_have_no_rights_they_do_not_need(services: dict[str, dict[str, Any]]) -> None:
    for name in WORKERS:
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]
        assert services[name]["init"] is True


def test_data_lies_in_named_volumes(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}

    assert used == compose["volumes"].keys()


def test_only_the_gpu_profile_needs_a_gpu(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, service in services.items() if service.get("profiles") == ["gpu"]] == ["ingest-gpu"]
    assert [name for name, service in services.items() if "deploy" in service] == ["ingest-gpu"]
    assert services["ingest-gpu"]["environment"] == {"MILVUS_STREAM__EMBEDDING__DEVICE": "cuda"}


def test_every_user_may_read_what_is_mounted(compose: dict[str, Any]) -> None:
    for name in compose["configs"]:
        assert mounted_file(compose, name).stat().st_mode & 0o444 == 0o444, name
