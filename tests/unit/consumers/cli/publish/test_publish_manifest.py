"""The manifest is replaced whole, and a damaged one is never taken for an empty one."""

from pathlib import Path

import pytest

from consumers.cli.publish.manifest import Target, manifest_path, read_manifest, write_manifest
from pipeline.errors import UsageError

TARGET = Target("documents", "topic-id")


def test_it_is_read_as_it_was_written_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = manifest_path(tmp_path)
    assert path == tmp_path / ".milvus-stream-manifest.json"
    assert manifest_path(tmp_path / "a.csv") == tmp_path / "a.csv.milvus-stream-manifest.json"
    assert read_manifest(path) is None
    for documents in ({"é\0": "00"}, {"a": "01", "b": ""}):
        write_manifest(path, TARGET, documents)
        assert read_manifest(path) == (TARGET, documents)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 2, "topic": "t", "cluster": "c", "documents": {}}', b"\xff"]
)
def test_a_damaged_one_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = manifest_path(tmp_path)
    path.write_bytes(content)
    with pytest.raises(UsageError, match="move it away"):
        read_manifest(path)


def test_one_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_manifest(tmp_path / "nowhere" / "m.json", TARGET, {})
