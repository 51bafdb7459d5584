"""Windows by the measured speed of the model, in simulated time."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from pipeline.ingest.window_size import FIRST_TOKENS, LEAST_TOKENS, WINDOW_S, WindowSize


@dataclass
class Model:
    """Embeds windows one after the other, two of which are in flight, as the stage does."""

    tokens_per_s: float
    size: WindowSize = field(default_factory=WindowSize)
    now: float = 100.0
    free_at: float = 100.0
    windows: list[tuple[int, float]] = field(default_factory=list)
    """Tokens of each window and when it ended."""
    in_flight: list[tuple[int, float, float]] = field(default_factory=list)

    def window(self, most: int = 2**40, *, writer_behind: bool = False) -> int:
        """Begin the next window, once no more than one is in flight; returns its tokens."""
        if len(self.in_flight) == 2:
            tokens, began, ended = self.in_flight.pop(0)
            self.now = max(self.now, ended)
            self.size.embedded(tokens, began, ended)
        tokens = min(most, self.size.next(writer_behind=writer_behind))
        self.free_at = max(self.free_at, self.now) + tokens / self.tokens_per_s
        self.in_flight.append((tokens, self.now, self.free_at))
        self.windows.append((tokens, self.free_at))
        return tokens


@pytest.mark.parametrize("tokens_per_s", [20_000, 30_000, 1_000_000, 20_000_000])
def test_windows_grow_to_half_a_second_of_the_model(tokens_per_s: int) -> None:
    model = Model(tokens_per_s)
    assert [model.window(), model.window()] == [FIRST_TOKENS, FIRST_TOKENS]
    for _ in range(20):
        model.window()
    assert model.windows[-1][0] == pytest.approx(WINDOW_S * tokens_per_s, rel=0.02)


def test_a_window_is_at_most_four_times_the_largest_before() -> None:
    model = Model(20_000_000)
    sizes = [model.window() for _ in range(8)]
    assert sizes[2] == 4 * FIRST_TOKENS
    assert all(later <= 4 * max(sizes[:place]) for place, later in enumerate(sizes) if place)


def test_of_a_slow_model_a_window_has_enough_tokens_for_its_passes() -> None:
    model = Model(500)
    assert [model.window() for _ in range(6)] == [FIRST_TOKENS, FIRST_TOKENS, *[LEAST_TOKENS] * 4]


def test_the_first_rows_of_a_thousand_news_wait_for_a_hundredth_of_the_model() -> None:
    model, left = Model(30_000), 480_000
    while left:
        left -= model.window(left)
    assert model.windows[0][1] - 100.0 < 0.2
    ends = [ended for _, ended in model.windows]
    assert max(later - before for before, later in pairwise(ends)) < 1.5 * WINDOW_S
    assert len(model.windows) < 40, "many passes each"


def test_windows_follow_a_model_that_becomes_slower() -> None:
    model = Model(100_000)
    for _ in range(20):
        model.window()
    model.tokens_per_s = 20_000
    for _ in range(30):
        model.window()
    assert model.windows[-1][0] == pytest.approx(WINDOW_S * 20_000, rel=0.1)


def test_windows_that_share_the_model_are_measured_together() -> None:
    size = WindowSize()
    for second in range(20):  # two at a time, each at half of the speed
        began = float(second)
        size.embedded(20_000, began, began + 0.999)
        size.embedded(20_000, began, began + 1.0)
    assert size.next(writer_behind=False) == pytest.approx(WINDOW_S * 40_000, rel=0.15)


def test_windows_are_doubled_while_the_write_stage_is_behind() -> None:
    model = Model(30_000)
    for _ in range(20):
        model.window()
    usual = model.window()
    behind = [model.window(writer_behind=True) for _ in range(3)]
    assert behind == pytest.approx([2 * usual, 4 * usual, 8 * usual], rel=0.02)
    after = [model.window() for _ in range(4)]
    assert after == pytest.approx([4 * usual, 2 * usual, usual, usual], rel=0.02)
