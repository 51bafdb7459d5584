"""`milvus-stream search`: what its options are turned away for before anything is connected."""

import pytest

from consumers.cli.search import request_body, search
from consumers.config import Settings
from pipeline.errors import UsageError


def test_a_name_that_milvus_would_cut_is_a_usage_error() -> None:
    body = request_body("q", limit=1, last=None, from_=None, to=None, where=["][=1"])
    with pytest.raises(UsageError, match=r"filter/filters/0/key: contains \]\[") as caught:
        search(Settings(), body)
    assert caught.value.exit_code == 2
