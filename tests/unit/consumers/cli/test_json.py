"""What `--json` prints: the same values, and nothing that steers the terminal it is looked at on."""

import json

import pytest

from consumers.cli.common.options import print_json
from tests.support.rigs.hostile import HOSTILE


def test_json_is_exact_and_safe_to_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"texts": [*HOSTILE, "\ud800"], "names": dict.fromkeys(HOSTILE)}
    print_json(value)
    written = capsys.readouterr().out
    assert json.loads(written) == value
    assert [line for line in written.removesuffix("\n").split("\n") if not line.isprintable()] == []
    assert "é" in written
    assert r"\u009b31m" in written
