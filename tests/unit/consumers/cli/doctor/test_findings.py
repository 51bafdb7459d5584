import pytest

from consumers.cli.doctor.findings import Findings, exit_code
from pipeline.errors import MilvusStreamError, Mismatch, Unavailable


def _findings(*errors: MilvusStreamError) -> Findings:
    found = Findings()
    found.ok("a", "fine")
    found.warning("b", "slow", "wait")
    for error in errors:
        with found.checking("c", "repair it"):
            raise error
    return found


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ((), 0),
        ((Mismatch("other model"),), 5),
        ((Unavailable("away"),), 3),
        ((Mismatch("other model"), Unavailable("away")), 3),
    ],
)
def test_the_exit_code_separates_problems_from_what_is_away(errors: tuple[MilvusStreamError, ...], code: int) -> None:
    found = _findings(*errors)
    assert exit_code(found) == code
    assert len(found) == 2 + len(errors)


def test_an_error_becomes_a_finding_with_stable_keys() -> None:
    assert _findings(Mismatch("other model"))[-1].as_dict() == {
        "check": "c",
        "level": "problem",
        "seen": "other model",
        "do": "repair it",
        "unreachable": False,
    }


def test_a_bug_is_no_finding() -> None:
    with pytest.raises(ZeroDivisionError), Findings().checking("x"):
        _ = 1 // 0
