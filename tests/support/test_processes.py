"""What a failed test shows of a child process."""

from pathlib import Path

import pytest

from tests.support.processes import running


def test_a_child_that_does_not_end_is_shown_with_its_stacks(tmp_path: Path) -> None:
    code = "import sys, time\nsys.stderr.write('begun')\nsys.stderr.flush()\ntime.sleep(60)"
    errors = tmp_path / "errors"
    with pytest.raises(AssertionError, match="timed out") as failed, running(["-c", code], errors) as child:
        child.process.wait(2)
    assert "begun" in str(failed.value)
    assert 'File "<string>", line 4' in str(failed.value)
