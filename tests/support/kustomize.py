"""A renderer for the part of Kustomize that `k8s/` uses, so that any machine can check the manifests offline.

No package that an ordinary Python client installs carries kustomize or kubectl. Whatever is not understood here raises
`Unsupported`: nothing is left out in silence. Where a kubectl is installed, a test compares the two.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

_KEYS = {"apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator", "images", "patches"}
_NAMESPACED = {
    "ConfigMap",
    "Deployment",
    "Job",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "Service",
    "ServiceAccount",
}
# Lists that a strategic merge patch merges by a key, as the API types say.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
}


class Unsupported(Exception):
    """The kustomization uses something that this renderer does not know."""


def render(folder: Path) -> list[Resource]:
    """The resources of `kubectl kustomize FOLDER`; their order is not Kustomize's."""
    resources = _build(folder, [])
    _follow_config_names(resources)
    for resource in resources:
        resource.get("metadata", {}).pop(_GENERATED, None)
    return resources


_GENERATED = "generated-from"


def _build(folder: Path, inherited: list[Resource]) -> list[Resource]:
    """What `folder` makes of `inherited` (not empty for a component only) and of its own resources."""
    spec = _load_one(folder / "kustomization.yaml")
    _only(spec, _KEYS, folder)
    resources = list(inherited)
    for name in spec.get("resources", []):
        path = folder / name
        resources += _build(path, []) if path.is_dir() else _load_all(path)
    resources += [_config_map(folder, entry) for entry in spec.get("configMapGenerator", [])]
    for name in spec.get("components", []):
        resources = _build(folder / name, resources)
    for entry in spec.get("patches", []):
        _only(entry, {"path"}, folder)
        for patch in _load_all(folder / entry["path"]):
            _patch(resources, patch, folder / entry["path"])
    if "namespace" in spec:
        _set_namespace(resources, spec["namespace"])
    for image in spec.get("images", []):
        _only(image, {"name", "newName", "newTag"}, folder)
        _set_image(resources, image)
    return resources


def _config_map(folder: Path, entry: Mapping[str, Any]) -> Resource:
    _only(entry, {"name", "files", "options"}, folder)
    options = entry.get("options", {})
    _only(options, {"disableNameSuffixHash"}, folder)
    data = {Path(file).name: (folder / file).read_text(encoding="utf-8") for file in entry["files"]}
    name = entry["name"]
    suffix = "" if options.get("disableNameSuffixHash") else f"-{_hash(data)}"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}{suffix}", _GENERATED: name},
        "data": data,
    }


def _hash(data: Mapping[str, str]) -> str:
    """Kustomize's suffix: ten hex digits of the SHA-256 of the content as JSON, with look-alike characters replaced."""
    # Kustomize has a place for the name here too, but leaves it empty.
    content = {"data": data, "kind": "ConfigMap", "name": ""}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # Go's encoder writes text as it is, but for these.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return digest.translate(str.maketrans("013ae", "ghkmt"))


def _patch(resources: Iterable[Resource], patch: Resource, origin: Path) -> None:
    wanted = (patch["apiVersion"], patch["kind"], patch["metadata"]["name"])
    for resource in resources:
        if (resource["apiVersion"], resource["kind"], resource["metadata"]["name"]) == wanted:
            _merge(resource, patch)
            return
    raise Unsupported(f"{origin}: no resource {wanted} to patch")


def _merge(target: dict[str, Any], patch: Mapping[str, Any]) -> None:
    for key, value in patch.items():
        if str(key).startswith("$"):
            raise Unsupported(f"patch directive {key}")
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        elif key in _MERGE_KEYS and isinstance(target.get(key), list):
            target[key] = _merge_lists(target[key], value, _MERGE_KEYS[key])
        elif isinstance(value, list) and key in target:
            raise Unsupported(f"a patch of the list {key}: say how the API merges it")
        else:
            target[key] = value


def _merge_lists(old: list[dict[str, Any]], new: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Items with the same `name` are merged in their place; new ones go before the old ones, as Kustomize does."""
    known = {item[name]: item for item in old}
    added = []
    for item in new:
        if item[name] in known:
            _merge(known[item[name]], item)
        else:
            added.append(item)
    return added + old


def _set_namespace(resources: Iterable[Resource], namespace: str) -> None:
    for resource in resources:
        if resource["kind"] == "Namespace":
            resource["metadata"]["name"] = namespace
        elif resource["kind"] in _NAMESPACED:
            resource["metadata"]["namespace"] = namespace
        else:
            raise Unsupported(f"kind {resource['kind']}: add it to the kinds with a namespace, if it has one")


def _set_image(resources: Iterable[Resource], image: Mapping[str, str]) -> None:
    for resource in resources:
        for node in _nodes(resource):
            if node.get("image") == image["name"] or str(node.get("image")).startswith(f"{image['name']}:"):
                old_name, _, old_tag = str(node["image"]).partition(":")
                tag = image.get("newTag", old_tag)
                node["image"] = f"{image.get('newName', old_name)}{':' if tag else ''}{tag}"


def _follow_config_names(resources: list[Resource]) -> None:
    """Point every reference to a generated ConfigMap at its name with the hash."""
    names = {
        resource["metadata"][_GENERATED]: resource["metadata"]["name"]
        for resource in resources
        if _GENERATED in resource["metadata"]
    }
    for resource in resources:
        for node in _nodes(resource):
            for key in ("configMap", "configMapRef", "configMapKeyRef"):
                reference = node.get(key)
                if isinstance(reference, dict) and reference.get("name") in names:
                    reference["name"] = names[reference["name"]]


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping inside `value`, itself included."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(inner)


def _load_all(path: Path) -> list[Resource]:
    # Anchors make one object out of equal parts; a patch of one must not change the others.
    return [
        json.loads(json.dumps(document))
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if document
    ]


def _load_one(path: Path) -> Resource:
    (document,) = _load_all(path)
    return document


def _only(entry: Mapping[str, Any], known: set[str], where: Path) -> None:
    unknown = entry.keys() - known
    if unknown:
        raise Unsupported(f"{where}: {', '.join(sorted(unknown))}")
