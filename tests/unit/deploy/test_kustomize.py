"""The manifests of `k8s/`: rendered, schema-checked and held to this project's rules."""

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from consumers.config import Settings, load_settings
from pipeline.errors import UsageError
from tests.docs.configuration import environment_name
from tests.support.kustomize import Resource, Unsupported, render

ROOT = Path(__file__).parents[3]
OVERLAYS = ("cpu", "gpu")
OLDEST, NEWEST = "1.34", "1.37"


@pytest.fixture(params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> list[Resource]:
    """The resources of one overlay."""
    return render(ROOT / "k8s/overlays" / request.param)


def overlay(name: str) -> list[Resource]:
    return render(ROOT / "k8s/overlays" / name)


def one(resources: list[Resource], kind: str, name: str) -> Resource:
    (found,) = (item for item in resources if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


def workloads(resources: list[Resource]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod spec and only container of every Deployment and Job."""
    for resource in resources:
        if resource["kind"] in {"Deployment", "Job"}:
            pod = resource["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            yield resource["metadata"]["name"], pod, container


def settings_of(resources: list[Resource], tmp_path: Path) -> Iterator[tuple[str, Settings]]:
    """What each workload's process would read: the mounted file and the container's own environment."""
    for name, pod, container in workloads(resources):
        (volume,) = (item for item in pod["volumes"] if item["name"] == "config")
        (mount,) = (item for item in container["volumeMounts"] if item["name"] == "config")
        path = container["args"][container["args"].index("--config") + 1]
        key = str(Path(path).relative_to(mount["mountPath"]))
        file = tmp_path / f"{name}.yaml"
        file.write_text(one(resources, "ConfigMap", volume["configMap"]["name"])["data"][key], encoding="utf-8")
        yield name, load_settings(file, {item["name"]: item["value"] for item in container["env"] if "value" in item})


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_resource_passes_the_schema_of(version: str, rendered: list[Resource]) -> None:
    for resource in rendered:
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_schema_check_sees_a_misspelt_field() -> None:
    ingest = copy.deepcopy(one(overlay("cpu"), "Deployment", "milvus-stream-ingest"))
    probe = ingest["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]
    probe["failureThreshhold"] = probe.pop("failureThreshold")

    with pytest.raises(kubernetes_validate.ValidationError, match="failureThreshhold"):
        kubernetes_validate.validate(ingest, NEWEST, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here to compare with")
@pytest.mark.parametrize("name", OVERLAYS)
def test_kubectl_renders_the_same(name: str) -> None:
    output = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "k8s/overlays" / name)], check=True, capture_output=True, text=True
    ).stdout

    def by_name(resources: list[Resource]) -> list[str]:
        return sorted(json.dumps(resource, sort_keys=True) for resource in resources)

    assert by_name(overlay(name)) == by_name(list(yaml.safe_load_all(output)))


@pytest.mark.parametrize(
    "line", ["commonLabels: {a: b}", "namePrefix: x-", "patches: [{path: p.yaml, target: {kind: Job}}]"]
)
def test_the_renderer_refuses_what_it_does_not_know(line: str, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(f"kind: Kustomization\n{line}\n")

    with pytest.raises(Unsupported):
        render(tmp_path)


def test_a_patch_without_its_resource_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("patches: [{path: p.yaml}]\n")
    (tmp_path / "p.yaml").write_text("{apiVersion: v1, kind: Service, metadata: {name: gone}}\n")

    with pytest.raises(Unsupported, match="gone"):
        render(tmp_path)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_rekey_component_is_an_ingest_pod_with_another_command(version: str) -> None:
    stage = yaml.safe_load((ROOT / "k8s/components/rekey/rekey.yaml").read_text(encoding="utf-8"))
    kubernetes_validate.validate(stage, version, strict=True)
    ingest = one(overlay("cpu"), "Deployment", "milvus-stream-ingest")
    pod, other = stage["spec"]["template"]["spec"], ingest["spec"]["template"]["spec"]
    assert pod["securityContext"] == other["securityContext"]
    (container,), (ingesting,) = pod["containers"], other["containers"]
    assert container["args"] == ["rekey", "--to", "documents-by-id", *ingesting["args"][1:]]
    for key in ("securityContext", "ports", "livenessProbe", "readinessProbe", "volumeMounts", "envFrom"):
        assert container[key] == ingesting[key], key
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


def test_the_workers_and_the_replay_are_there(rendered: list[Resource]) -> None:
    names = {(resource["kind"], resource["metadata"]["name"]) for resource in rendered}

    assert {
        ("Deployment", "milvus-stream-ingest"),
        ("Deployment", "milvus-stream-query"),
        ("Service", "milvus-stream-query"),
        ("Job", "milvus-stream-replay"),
        ("NetworkPolicy", "milvus-stream"),
    } <= names
    assert {resource["metadata"].get("namespace") for resource in rendered if resource["kind"] != "Namespace"} == {
        one(rendered, "Namespace", "milvus-stream")["metadata"]["name"]
    }


def test_pods_meet_the_restricted_profile(rendered: list[Resource]) -> None:
    for name, pod, container in workloads(rendered):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == 10001, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name


def test_memory_is_reserved_and_bounded_and_images_are_pinned(rendered: list[Resource], project_version: str) -> None:
    for name, _, container in workloads(rendered):
        resources = container["resources"]
        assert resources["limits"]["memory"] == resources["requests"]["memory"], name
        assert "cpu" in resources["requests"], name
        assert "cpu" not in resources["limits"], f"{name}: a CPU limit throttles a forward pass"
        assert container["image"] == f"milvus-stream:{project_version}", name


def test_probes_ask_an_open_port(rendered: list[Resource], tmp_path: Path) -> None:
    settings = dict(settings_of(rendered, tmp_path))
    for name in ("milvus-stream-ingest", "milvus-stream-query"):
        container = one(rendered, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]
        port, *further = container["ports"]
        for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
        section = settings[name].telemetry if name.endswith("ingest") else settings[name].query
        assert (section.host, section.port) == ("0.0.0.0", port["containerPort"])
        metrics = [settings[name].query.telemetry_port] if name.endswith("query") else []
        assert [other["containerPort"] for other in further] == metrics
        assert settings[name].telemetry.host == "0.0.0.0"


def test_each_port_is_open_to_named_peers_only(rendered: list[Resource], tmp_path: Path) -> None:
    settings = dict(settings_of(rendered, tmp_path))
    query, telemetry = settings["milvus-stream-query"].query.port, settings["milvus-stream-ingest"].telemetry.port
    assert settings["milvus-stream-query"].query.telemetry_port == telemetry
    policy = one(rendered, "NetworkPolicy", "milvus-stream")["spec"]
    allowed: dict[int, list[dict[str, Any]]] = {}
    for rule in policy["ingress"]:
        assert rule["from"], "a rule without peers lets every pod in"
        for peer in rule["from"]:
            assert all(selector.get("matchLabels") for selector in peer.values()), f"{peer} selects everything"
        for port in rule["ports"]:
            allowed.setdefault(port["port"], []).extend(rule["from"])

    search = {"matchLabels": {"milvus-stream/may-search": "true"}}
    scrape = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert allowed == {query: [{"namespaceSelector": search}, {"podSelector": search}], telemetry: [scrape]}
    for kind in ("ingest", "query"):
        labels = one(rendered, "Deployment", f"milvus-stream-{kind}")["spec"]["template"]["metadata"]["labels"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()


def test_a_search_needs_a_key_of_the_secret(rendered: list[Resource], tmp_path: Path) -> None:
    auth = dict(settings_of(rendered, tmp_path))["milvus-stream-query"].query.auth
    pod = one(rendered, "Deployment", "milvus-stream-query")["spec"]["template"]["spec"]
    (volume,) = (item for item in pod["volumes"] if item["name"] == "keys")
    (mount,) = (item for item in pod["containers"][0]["volumeMounts"] if item["name"] == "keys")
    assert volume["secret"]["secretName"] == "milvus-stream-keys"
    assert volume["secret"]["defaultMode"] & 0o007 == 0, "the group of the pod reads it, nobody else"
    assert mount["readOnly"] is True
    assert "subPath" not in mount, "a file mounted so never changes"
    assert (auth.mode, str(auth.keys_file)) == ("auto", f"{mount['mountPath']}/keys.json")


def test_replicas_take_each_others_cursors(rendered: list[Resource]) -> None:
    deployment = one(rendered, "Deployment", "milvus-stream-query")
    assert deployment["spec"]["replicas"] > 1
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (key,) = (item for item in container["env"] if item["name"] == environment_name("query.cursor_key"))
    reference = key["valueFrom"]["secretKeyRef"]
    assert load_settings(None, {key["name"]: "0" * 64}).query.cursor_key is not None
    file = (ROOT / "k8s/base/milvus-stream.yaml").read_text(encoding="utf-8")
    page = (ROOT / "docs/operations/deploy.md").read_text(encoding="utf-8")
    for text in (file, page):
        assert f"create secret generic {reference['name']} --from-literal={reference['key']}=" in text
    assert reference["optional"] is True, "a pod without it would wait, and only Kubernetes would say why"
    for name, _, other in workloads(rendered):
        if name != "milvus-stream-query":
            assert key not in other["env"], f"{name} signs nothing"


def test_the_kill_comes_ten_seconds_after_the_drain_or_later(rendered: list[Resource], tmp_path: Path) -> None:
    pods = {name: (pod, container) for name, pod, container in workloads(rendered)}
    for name, settings in settings_of(rendered, tmp_path):
        pod, container = pods[name]
        pre_stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = settings.shutdown_timeout.total_seconds() + pre_stop
        assert pod["terminationGracePeriodSeconds"] >= drain + 10, name


def test_every_workload_can_read_its_configuration(rendered: list[Resource], tmp_path: Path) -> None:
    settings = dict(settings_of(rendered, tmp_path))

    assert settings.keys() == {"milvus-stream-ingest", "milvus-stream-query", "milvus-stream-replay"}
    # The section passes what it does not know to the Kafka client: a misspelt key would end up here.
    assert all(item.kafka.client_options == {} for item in settings.values())
    assert (
        len({(item.kafka.bootstrap_servers, item.milvus.uri, item.embedding.model) for item in settings.values()}) == 1
    )


def test_a_misspelt_setting_is_caught(tmp_path: Path) -> None:
    resources = overlay("cpu")
    ingest = one(resources, "Deployment", "milvus-stream-ingest")
    environment = ingest["spec"]["template"]["spec"]["containers"][0]["env"]
    environment.append({"name": "MILVUS_STREAM__MILVUS__COLLECTOIN", "value": "documents"})

    with pytest.raises(UsageError, match="collectoin"):
        dict(settings_of(resources, tmp_path))


def test_selectors_and_references_meet(rendered: list[Resource]) -> None:
    config_maps = {resource["metadata"]["name"] for resource in rendered if resource["kind"] == "ConfigMap"}
    claims = {resource["metadata"]["name"] for resource in rendered if resource["kind"] == "PersistentVolumeClaim"}
    accounts = {resource["metadata"]["name"] for resource in rendered if resource["kind"] == "ServiceAccount"}
    for name, pod, container in workloads(rendered):
        assert pod["serviceAccountName"] in accounts
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        for volume in pod["volumes"]:
            assert volume.get("configMap", {"name": next(iter(config_maps))})["name"] in config_maps, name
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, name
    for kind in ("ingest", "query"):
        labels = one(rendered, "Deployment", f"milvus-stream-{kind}")["spec"]["template"]["metadata"]["labels"]
        budget = one(rendered, "PodDisruptionBudget", f"milvus-stream-{kind}")
        assert budget["spec"]["selector"]["matchLabels"] == labels
    service = one(rendered, "Service", "milvus-stream-query")
    assert service["spec"]["selector"] == labels
    assert {"app.kubernetes.io/name": "milvus-stream"}.items() <= labels.items()


def test_the_replay_waits_to_be_started_with_a_range(rendered: list[Resource]) -> None:
    job = one(rendered, "Job", "milvus-stream-replay")

    assert job["spec"]["suspend"] is True
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"][-4:] == [
        "--from",
        "$(REPLAY_FROM)",
        "--to",
        "$(REPLAY_TO)",
    ]


def test_a_changed_configuration_rolls_the_workers_but_not_the_job(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    file = tmp_path / "k8s/base/milvus-stream.yaml"
    file.write_text(file.read_text().replace("collection: documents", "collection: news"))
    before, after = overlay("cpu"), render(tmp_path / "k8s/overlays/cpu")

    for kind, name, same in (
        ("Deployment", "milvus-stream-ingest", False),
        ("Deployment", "milvus-stream-query", False),
        ("Job", "milvus-stream-replay", True),
    ):
        assert (one(before, kind, name) == one(after, kind, name)) is same, name


def test_a_rollout_of_ingest_workers_needs_no_spare_gpu(rendered: list[Resource]) -> None:
    strategy = one(rendered, "Deployment", "milvus-stream-ingest")["spec"]["strategy"]

    assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_only_the_gpu_overlay_asks_for_gpus(tmp_path: Path) -> None:
    for name, device in (("cpu", "cpu"), ("gpu", "cuda")):
        resources = overlay(name)
        settings = dict(settings_of(resources, tmp_path))
        for workload, pod, container in workloads(resources):
            embeds = not workload.endswith("query")
            gpus = container["resources"]["limits"].get("nvidia.com/gpu", 0)
            assert gpus == (1 if name == "gpu" and embeds else 0), workload
            assert bool(pod.get("tolerations")) is bool(gpus), workload
            assert settings[workload].embedding.device == (device if embeds else "auto"), workload


def test_models_are_never_downloaded_at_run_time(rendered: list[Resource]) -> None:
    for name, _, container in workloads(rendered):
        assert {"name": "HF_HUB_OFFLINE", "value": "1"} in container["env"], name


def test_the_gpu_overlay_reads_its_model_from_the_volume(tmp_path: Path) -> None:
    resources = overlay("gpu")
    settings = dict(settings_of(resources, tmp_path))
    for name, _, container in workloads(resources):
        (mount,) = (item for item in container["volumeMounts"] if item["name"] == "models")
        assert mount["readOnly"] is True
        assert Path(settings[name].embedding.model).is_relative_to(mount["mountPath"])


def test_a_generated_name_carries_the_hash_that_kubectl_gives_it(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("configMapGenerator: [{name: a, files: [c.yaml]}]\n")
    (tmp_path / "c.yaml").write_text('naïve: "<a & b>"\n', encoding="utf-8")

    (config_map,) = render(tmp_path)

    assert config_map["metadata"]["name"] == "a-ff62g8cf2d"
