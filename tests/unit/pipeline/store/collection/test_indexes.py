from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.store.collection.indexes import (
    MAX_LIMIT,
    TYPES,
    IndexSettings,
    check_server,
    index_problem,
    search_params,
)
from pipeline.store.milvus.api import IndexInfo, ServerInfo

LITE = ServerInfo("milvus_lite-3.2.2", (3, 2, 2), lite=True)
OLD = ServerInfo("v2.3.5-lite", (2, 3, 5), lite=False)
NEW = ServerInfo("2.6.7", (2, 6, 7), lite=False)


def settings(kind: str, **params: Any) -> IndexSettings:
    return IndexSettings(kind, "IP", params)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_has_working_defaults(kind: str) -> None:
    index = settings(kind)
    assert index.info().type == kind
    assert index.info().metric == "IP"
    for limit in (1, 10, 1000):
        search_params(index, limit)


def test_defaults_are_sent_and_values_kept() -> None:
    assert IndexSettings("HNSW", "COSINE", {"M": 32}).info().params == {"M": 32, "efConstruction": 200}


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("HNSW", {"M": 1}, r"milvus\.index\.params\.M is 1: write a whole number from 2 to 2048"),
        ("HNSW", {"M": 2049}, "from 2 to 2048"),
        ("HNSW", {"M": "16"}, r"M is '16'"),
        ("HNSW", {"M": True}, "M is True"),
        ("HNSW", {"efConstruction": 7}, "efConstruction is 7"),
        ("HNSW", {"efconstruction": 200}, "efconstruction is not a parameter of HNSW: it has M, efConstruction"),
        ("FLAT", {"nlist": 8}, "nlist is not a parameter of FLAT: it has no parameters"),
        ("IVF_FLAT", {"nlist": 65_537}, "nlist is 65537: write a whole number from 1 to 65536"),
        ("IVF_SQ8", {"nlist": 0}, "nlist is 0"),
        ("SCANN", {"with_raw_data": "yes"}, "with_raw_data is 'yes': write one of true, false"),
        ("GPU_CAGRA", {"build_algo": "BEST"}, "build_algo is 'BEST': write one of IVF_PQ, NN_DESCENT"),
        ("GPU_CAGRA", {"graph_degree": 129}, "graph_degree is 129: write at most intermediate_graph_degree, 128"),
        ("BOGUS", {}, r"milvus\.index\.type is 'BOGUS': write one of FLAT"),
    ],
)
def test_wrong_settings_are_named(kind: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(kind, **params)


def test_metrics() -> None:
    with pytest.raises(UsageError, match="write one of COSINE, IP, L2"):
        IndexSettings("HNSW", "HAMMING")
    with pytest.raises(UsageError, match="GPU_CAGRA does not have: write IP"):
        IndexSettings("GPU_CAGRA", "COSINE")
    assert IndexSettings("GPU_IVF_FLAT", "L2").metric == "L2"


@pytest.mark.parametrize("value", [True, "true"])
def test_a_switch_is_sent_as_the_word_2_3_builds_with(value: object) -> None:
    assert settings("SCANN", with_raw_data=value).info().params["with_raw_data"] == "true"


@pytest.mark.parametrize(("kind", "name"), [("HNSW", "ef"), ("DISKANN", "search_list"), ("GPU_CAGRA", "itopk_size")])
def test_a_search_compares_as_many_candidates_as_it_returns(kind: str, name: str) -> None:
    index = settings(kind)
    default = search_params(index, 1)[name]
    assert search_params(index, default + 1)[name] == default + 1
    assert search_params(index, 10, {name: 500})[name] == 500
    with pytest.raises(UsageError, match=f"{name} is 9: write at least the limit, 10"):
        search_params(index, 10, {name: 9})


def test_nprobe_stays_within_nlist() -> None:
    few = settings("IVF_FLAT", nlist=4)
    assert search_params(few, 10) == {"nprobe": 4}
    with pytest.raises(UsageError, match="nprobe is 5: write at most nlist, 4"):
        search_params(few, 10, {"nprobe": 5})
    assert search_params(IndexInfo("IVF_FLAT", "IP", {}), 10, {"nprobe": 128}) == {"nprobe": 128}


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1])
def test_limits_no_server_takes(limit: int) -> None:
    with pytest.raises(UsageError, match="from 1 to 16384"):
        search_params(settings("HNSW"), limit)


def test_unknown_search_parameters_are_named_and_unknown_indexes_left_alone() -> None:
    with pytest.raises(UsageError, match="search parameter nprobe is not a parameter of HNSW: it has ef"):
        search_params(settings("HNSW"), 10, {"nprobe": 8})
    assert search_params(IndexInfo("IVF_RABITQ", "IP", {}), 10, {"rbq_query_bits": 6}) == {"rbq_query_bits": 6}


def test_server_gates() -> None:
    with pytest.raises(UsageError, match=r"GPU_CAGRA, which needs Milvus 2\.4 or newer; the server is v2\.3\.5-lite"):
        check_server(settings("GPU_CAGRA"), OLD)
    check_server(settings("GPU_CAGRA"), NEW)
    check_server(settings("HNSW"), OLD)


def test_an_index_that_is_never_built_is_reported() -> None:
    gpu, hnsw = IndexInfo("GPU_IVF_FLAT", "IP", {}), IndexInfo("HNSW", "IP", {})
    assert "GPU" in (index_problem(gpu, OLD, (0, 5000)) or "")
    assert "none of 5000 rows" in (index_problem(hnsw, OLD, (0, 5000)) or "")
    assert index_problem(gpu, OLD, (5000, 0)) is None
    assert index_problem(hnsw, OLD, (5000, 100)) is None
    assert index_problem(gpu, LITE, (0, 5000)) is None
