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
