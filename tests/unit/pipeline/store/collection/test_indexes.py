from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.store.collection.indexes import (
    MAX_LIMIT,
    TYPES,
    BadParameter,
    IndexSettings,
    check_search_defaults,
    check_server,
    index_problem,
    search_params,
)
from pipeline.store.milvus.api import IndexInfo, ServerInfo
from tests.support.examples import examples

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
    assert search_params(index, 10, {name: 9})[name] == 10
    assert search_params(index, 10, defaults={name: 9})[name] == 10
    assert search_params(index, 10, {name: 500}, defaults={name: 400})[name] == 500
    assert search_params(index, 10, defaults={name: 400})[name] == 400


def test_nprobe_stays_within_nlist() -> None:
    few = settings("IVF_FLAT", nlist=4)
    assert search_params(few, 10) == {"nprobe": 4}
    with pytest.raises(UsageError, match="nprobe is 5: write at most nlist, 4"):
        search_params(few, 10, {"nprobe": 5})
    assert search_params(few, 10, defaults={"nprobe": 5}) == {"nprobe": 4}
    assert search_params(IndexInfo("IVF_FLAT", "IP", {}), 10, {"nprobe": 128}) == {"nprobe": 128}


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1])
def test_limits_no_server_takes(limit: int) -> None:
    with pytest.raises(UsageError, match="from 1 to 16384"):
        search_params(settings("HNSW"), limit)


def test_a_search_parameter_of_another_type_is_named_and_as_a_default_left_out() -> None:
    with pytest.raises(BadParameter, match="search parameter nprobe is not a parameter of HNSW: it has ef") as caught:
        search_params(settings("HNSW"), 10, {"nprobe": 8})
    assert (caught.value.name, caught.value.detail) == ("nprobe", "is not a parameter of HNSW: it has ef")
    assert search_params(settings("HNSW"), 10, defaults={"nprobe": 8}) == {"ef": 64}
    assert search_params(settings("FLAT"), 10, defaults={"ef": 8}) == {}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("FLAT", {"ef": 64}),
        ("HNSW", {"radius": 1}),
        ("HNSW", {"ef": 0}),
        ("HNSW", {"ef": 32_769}),
        ("HNSW", {"ef": "64"}),
        ("IVF_SQ8", {"nprobe": 0}),
        ("AUTOINDEX", {"level": 11}),
        ("AUTOINDEX", {"ef": 64}),
        ("SCANN", {"reorder_k": True}),
        ("GPU_IVF_FLAT", {"nprobe": 129}),
    ],
)
def test_a_wrong_search_parameter_is_refused_without_its_value(kind: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadParameter) as caught:
        search_params(settings(kind), 10, wrong)
    ((name, value),) = wrong.items()
    assert caught.value.name == name
    assert repr(value) not in caught.value.detail.split()


def test_an_index_that_is_not_known_here_has_its_own_defaults() -> None:
    other = IndexInfo("IVF_RABITQ", "IP", {})
    assert search_params(other, 10, defaults={"nprobe": 4}) == {}
    with pytest.raises(BadParameter, match="rbq_query_bits cannot be checked for an index of the type IVF_RABITQ"):
        search_params(other, 10, {"rbq_query_bits": 6})


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("HNSW", {"nprobe": 8}, r"milvus\.search_params\.nprobe is not a parameter of HNSW: it has ef"),
        ("HNSW", {"ef": 0}, r"milvus\.search_params\.ef is 0: write a whole number from 1 to 32768"),
        ("IVF_FLAT", {"nprobe": 129}, r"milvus\.search_params\.nprobe is 129: write at most nlist, 128"),
        ("FLAT", {"ef": 8}, "it has no parameters"),
    ],
)
def test_configured_search_parameters_belong_to_the_configured_index(
    kind: str, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_search_defaults(settings(kind), wrong)


def test_configured_search_parameters_that_fit() -> None:
    check_search_defaults(settings("HNSW"), {"ef": 128})
    check_search_defaults(settings("IVF_FLAT", nlist=1024), {"nprobe": 1024})
    check_search_defaults(settings("AUTOINDEX"), {"level": 2})
    check_search_defaults(settings("FLAT"), {})


@examples(times=2)
@given(
    st.sampled_from(TYPES),
    st.integers(1, MAX_LIMIT),
    st.integers(1, 65_536),
    st.integers(1, 32_768),
    st.integers(1, 32_768),
)
def test_what_is_sent_is_what_the_index_takes(kind: str, limit: int, nlist: int, low: int, high: int) -> None:
    """No valid parameter is below the limit or above nlist when it is sent."""
    index = IndexInfo(kind, "IP", {"nlist": nlist})
    names = search_params(index, limit)
    given_defaults = dict.fromkeys(names, low)
    overrides = {name: min(high, nlist) for name in names}
    for sent in (search_params(index, limit, defaults=given_defaults), search_params(index, limit, overrides)):
        assert sent.keys() == names.keys()
        assert sent.get("nprobe", 1) <= nlist
        assert all(sent.get(name, limit) >= limit for name in ("ef", "search_list", "itopk_size", "reorder_k"))


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
