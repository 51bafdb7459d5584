import subprocess
import sys

import pytest

from pipeline.errors import UsageError
from pipeline.store.milvus.addresses import server_address
from pipeline.store.milvus.conversion import collection_info, server_info


@pytest.mark.parametrize(
    ("version", "number", "lite"),
    [
        ("v2.3.5-lite", (2, 3, 5), False),
        ("milvus_lite-3.2.2", (3, 2, 2), True),
        ("milvus-lite-3.3.0", (3, 3, 0), True),
        ("2.6.7", (2, 6, 7), False),
        ("v3.0.3-gpu", (3, 0, 3), False),
        ("2.6-20250101-abc", (2, 6, 0), False),
        ("master-20260101-1.2", (0, 0, 0), False),
        ("", (0, 0, 0), False),
    ],
)
def test_versions(version: str, number: tuple[int, int, int], lite: bool) -> None:
    info = server_info(version)
    assert (info.version, info.number, info.lite) == (version, number, lite)


def test_server_answers_become_plain_values() -> None:
    raw = {
        "collection_name": "c",
        "description": "",
        "properties": {"milvus_stream.description": "in the properties"},
        "fields": [
            {"name": "id", "type": 21, "params": {"max_length": "64"}, "is_primary": True},
            {"name": "team", "type": 21, "params": {}, "nullable": True},
        ],
        "enable_dynamic_field": True,
    }
    index = {"index_type": "HNSW", "metric_type": "COSINE", "field_name": "v", "M": "16", "mmap": "true", "state": "x"}
    info = collection_info(raw, {"v": index})
    assert info.description == "in the properties"
    assert (info.fields[0].type, info.fields[0].max_length, info.fields[0].primary) == ("VARCHAR", 64, True)
    assert [field.nullable for field in info.fields] == [False, True]
    assert info.indexes["v"].params == {"M": 16, "mmap": "true"}


@pytest.mark.parametrize("uri", ["localhost:19530", "ftp://h:1", "", "./x.db", "http://"])
def test_what_is_no_address_is_a_wrong_setting(uri: str) -> None:
    with pytest.raises(UsageError, match=r"milvus\.uri"):
        server_address(uri)


def test_credentials_are_not_shown() -> None:
    assert server_address("https://root:secret@host:19530") == "https://host:19530"
    with pytest.raises(UsageError) as caught:
        server_address("root:secret@host")
    assert "secret" not in str(caught.value)


def test_importing_the_room_does_not_import_the_sdk() -> None:
    probe = "import sys, pipeline.store; print(sorted({'pymilvus', 'grpc', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
