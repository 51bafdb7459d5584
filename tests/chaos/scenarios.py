from collections.abc import Sequence

SCENARIOS: dict[str, object] = {}


def play(names: Sequence[str]) -> int:
    return 0
