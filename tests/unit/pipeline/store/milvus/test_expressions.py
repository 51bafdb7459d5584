"""Values in filter expressions."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.milvus.expressions import ids_expression, literal


@given(st.lists(st.text(max_size=70), max_size=5))
def test_only_digests_get_into_an_expression(ids: list[str]) -> None:
    try:
        expression = ids_expression(ids)
    except ValueError:
        assert not all(re.fullmatch("[0-9a-f]{1,64}", one) for one in ids)
    else:
        assert ids == re.findall(r'"([0-9a-f]+)"', expression)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, "true"),
        (-7, "-7"),
        (1.5, "1.5"),
        ("a", '"a"'),
        ('"; drop', r'"\"; drop"'),
        ("back\\slash", r'"back\\slash"'),
        ("two\nlines\tand\r", r'"two\nlines\tand\r"'),
        ("größe", '"größe"'),
    ],
)
def test_a_literal_cannot_end_before_its_value_does(value: bool | int | float | str, written: str) -> None:
    assert literal(value) == written


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_without_a_literal_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        literal(value)
