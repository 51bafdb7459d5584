"""Which folders are taken for a model, and which are refused before anything is read from them as code."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.embedding.loading.model_files import check_model, digest_model, find_model
from pipeline.errors import UsageError

_MODULES = [
    {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.base.modules.dense.Dense"},
    {"idx": 3, "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit(path: Path, **changes: object) -> None:
    write(path, json.loads(path.read_text()) | changes)


def grow(path: Path, mib: int) -> None:
    """Make the file that long; it takes no room on the disk."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(mib * 2**20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "modules.json", _MODULES)
    write(tmp_path / "config.json", {"model_type": "bert", "hidden_size": 8, "text_config": {"layers": [1]}})
    write(tmp_path / "tokenizer.json", {"model": {"vocab": {"a": 0}}, "truncation": {"max_length": 128}})
    write(tmp_path / "tokenizer_config.json", {"do_lower_case": True})
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
    write(tmp_path / "config_sentence_transformers.json", {"prompts": {"query": "q: "}})
    write(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    write(tmp_path / "2_Dense" / "config.json", {"in_features": 8, "out_features": 4})
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"more")
    return tmp_path


def test_a_whole_model_passes_even_with_pickles_beside_its_weights(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    check_model(folder)


def test_links_as_in_the_cache_of_a_hub_pass_and_one_to_nothing_is_no_matter(folder: Path) -> None:
    (folder / "blob").write_text((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("blob")
    (folder / "gone.md").symlink_to("nothing")
    edit(folder / "2_Dense" / "config.json", activation_function="torch.nn.modules.activation.Tanh")
    check_model(folder)


def test_a_deep_tokenizer_is_refused_when_it_is_digested(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(UsageError, match="nested too deeply"):
        digest_model(folder)


def _only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _dense_pickled(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")


def _modules_from_a_pipe(folder: Path) -> None:
    (folder / "modules.json").unlink()
    os.mkfifo(folder / "modules.json")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled weights": (_only_pickled, "pytorch_model.bin"),
    "pickled weights of a module": (_dense_pickled, "2_Dense"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    "remote code": (lambda folder: edit(folder / "config.json", auto_map={"AutoModel": "x.Y"}), "auto_map"),
    "remote tokenizer": (lambda folder: edit(folder / "tokenizer_config.json", auto_map={"A": "x"}), "auto_map"),
    "nested remote code": (
        lambda folder: edit(folder / "config.json", text_config={"deep": [{"auto_map": {"AutoModel": "x.Y"}}]}),
        "auto_map",
    ),
    "kernel past trust_remote_code": (
        lambda folder: edit(folder / "config.json", _attn_implementation_internal="org/kernel"),
        "_attn_implementation_internal",
    ),
    "kernel of a hub": (lambda folder: edit(folder / "config.json", _attn_implementation="org/kernel"), "hub"),
    "kernel in the module": (
        lambda folder: edit(folder / "sentence_bert_config.json", model_args={"attn_implementation": "org/kernel"}),
        "hub",
    ),
    "module of its own": (
        lambda folder: write(folder / "modules.json", [{"path": "", "type": "custom.Thing"}]),
        "custom",
    ),
    "module that looks at home": (
        lambda folder: write(folder / "modules.json", [{"path": "", "type": "sentence_transformers_evil.Transformer"}]),
        "evil",
    ),
    "unknown kind of module": (
        lambda folder: write(
            folder / "modules.json", [*_MODULES, {"path": "", "type": "sentence_transformers.Router"}]
        ),
        "Router",
    ),
    "no transformer": (lambda folder: write(folder / "modules.json", _MODULES[1:]), "Transformer"),
    "path out of the folder": (
        lambda folder: write(folder / "modules.json", [{**_MODULES[0], "path": "../elsewhere"}]),
        "elsewhere",
    ),
    "modules.json of another shape": (lambda folder: write(folder / "modules.json", {"a": 1}), "no list"),
    "no modules.json": (lambda folder: (folder / "modules.json").unlink(), "no modules.json"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
    "no settings of a module": (lambda folder: (folder / "1_Pooling" / "config.json").unlink(), "for its Pooling"),
    "settings nested without end": (
        lambda folder: (folder / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000),
        r"config\.json .* nested too deeply",
    ),
    "modules nested without end": (
        lambda folder: (folder / "modules.json").write_text("[" * 100_000 + "]" * 100_000),
        r"modules\.json .* nested too deeply",
    ),
    "settings of 200 MB": (lambda folder: grow(folder / "config.json", 200), "200 MiB, more than the 8 MiB"),
    "integers of 100 MB": (lambda folder: grow(folder / "extra.json", 100), "100 MiB, more than the 8 MiB"),
    "modules.json of 100 MB": (lambda folder: grow(folder / "modules.json", 100), "100 MiB, more than the 8 MiB"),
    "a tokenizer of 200 MB": (lambda folder: grow(folder / "tokenizer.json", 200), "200 MiB, more than the 100 MiB"),
    "settings of a module of 9 MB": (lambda folder: grow(folder / "1_Pooling" / "config.json", 9), "more than the 8"),
    "a pipe": (lambda folder: os.mkfifo(folder / "extra.json"), "neither a file nor a folder"),
    "a pipe in the place of its modules": (
        _modules_from_a_pipe,
        "neither a file nor a folder",
    ),
    "a pipe in a module": (lambda folder: os.mkfifo(folder / "2_Dense" / "x.safetensors"), "neither a file nor"),
    "an activation of its own": (
        lambda folder: edit(folder / "2_Dense" / "config.json", activation_function="custom.Gate"),
        r"activation 'custom\.Gate'",
    ),
    "an activation that is no name": (
        lambda folder: edit(folder / "2_Dense" / "config.json", activation_function={"a": 1}),
        "activation",
    ),
    "adapter": (lambda folder: write(folder / "adapter_config.json", {"base_model_name_or_path": "x"}), "adapter"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_is_refused_for(case: str, folder: Path) -> None:
    change, message = REFUSED[case]
    change(folder)
    with pytest.raises(UsageError, match=message):
        check_model(folder)


CHANGING: dict[str, Callable[[Path], object]] = {
    "a weight": lambda folder: (folder / "model.safetensors").write_bytes(b"weightz"),
    "a weight of a module": lambda folder: (folder / "2_Dense" / "model.safetensors").write_bytes(b"m0re"),
    "the architecture": lambda folder: edit(folder / "config.json", hidden_act="relu"),
    "the vocabulary": lambda folder: edit(folder / "tokenizer.json", model={"vocab": {"b": 0}}),
    "a prompt": lambda folder: edit(folder / "config_sentence_transformers.json", prompts={"document": "d: "}),
    "lower case": lambda folder: edit(folder / "sentence_bert_config.json", do_lower_case=True),
    "a module less": lambda folder: write(folder / "modules.json", _MODULES[:2]),
}


@pytest.mark.parametrize("case", CHANGING)
def test_the_digest_changes_with(case: str, folder: Path) -> None:
    before = digest_model(folder)
    CHANGING[case](folder)
    assert digest_model(folder) != before


SAME: dict[str, Callable[[Path], object]] = {
    "the file's place": lambda folder: edit(folder / "config.json", _name_or_path="/somewhere/else"),
    "the stored precision": lambda folder: edit(folder / "config.json", dtype="bfloat16", transformers_version="9"),
    "a baked-in truncation": lambda folder: edit(folder / "tokenizer.json", truncation=None, padding=None),
    "an empty prompt": lambda folder: edit(
        folder / "config_sentence_transformers.json", prompts={"query": "q: ", "document": ""}, __version__={"x": "1"}
    ),
    "a readme": lambda folder: (folder / "README.md").write_text("new"),
}


@pytest.mark.parametrize("case", SAME)
def test_the_digest_stays_with(case: str, folder: Path) -> None:
    before = digest_model(folder)
    SAME[case](folder)
    assert digest_model(folder) == before


def test_the_digest_of_a_vocabulary_in_its_old_form(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("a\nb\n")
    before = digest_model(folder)
    (folder / "vocab.txt").write_text("a\nc\n")
    assert digest_model(folder) != before


def test_a_hub_id_that_a_package_carries_is_found_there() -> None:
    found = find_model("sentence-transformers/all-MiniLM-L6-v2")
    assert (found / "model.safetensors").is_file()
    check_model(found)


@pytest.mark.parametrize("model", ["", "./nothing", "/no/such/folder", "a/b/c", "~/no-such-model"])
def test_a_missing_folder_says_so(model: str) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        find_model(model)


def test_a_hub_id_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(UsageError, match="hf download nobody/has-this --local-dir"):
        find_model("nobody/has-this")
