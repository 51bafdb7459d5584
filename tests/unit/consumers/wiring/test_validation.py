"""What `config lint` and every start refuse without a connection and without a model."""

import pytest

from consumers.config import load_settings
from consumers.wiring.validation import check_settings
from pipeline.errors import UsageError


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["chunking.max_tokens=16"], r"chunking\.overlap is 32, but must be from 0 to below the chunk length of 16"),
        (["milvus.index.type=HNSWX"], r"milvus\.index\.type is 'HNSWX'"),
        (["milvus.search_params.nprobe=8"], r"milvus\.search_params\.nprobe is not a parameter of HNSW: it has ef"),
        (["milvus.search_params.ef=0"], r"milvus\.search_params\.ef is 0: write a whole number from 1 to 32768"),
        (
            ["milvus.index.type=IVF_FLAT", "milvus.index.params.nlist=8", "milvus.search_params.nprobe=9"],
            r"milvus\.search_params\.nprobe is 9: write at most nlist, 8",
        ),
        (["milvus.flush_interval=0s"], r"milvus\.flush_interval"),
        (["kafka.no_such_option=1"], r"kafka\.no_such_option is not a setting"),
        (["kafka.start_from=yesterday"], r"kafka\.start_from"),
    ],
)
def test_a_setting_that_no_worker_takes_is_refused(sets: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_settings(load_settings(None, {}, sets))


def test_an_overlap_below_the_length_of_chunks_is_accepted() -> None:
    check_settings(load_settings(None, {}, ["chunking.max_tokens=33"]))


def test_search_parameters_of_the_configured_index_are_accepted() -> None:
    check_settings(load_settings(None, {}, ["milvus.search_params.ef=256"]))
    check_settings(load_settings(None, {}, ["milvus.index.type=SCANN", "milvus.search_params.reorder_k=100"]))
