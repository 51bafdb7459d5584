"""How many examples a property test needs, as a multiple of what the chosen profile gives (tests/conftest.py)."""

from typing import Any

from hypothesis import settings


def examples(times: float, **more: Any) -> settings:
    """Settings with `times` as many examples as the profile: 100 of them in `ci`, 50 times as many in `nightly`."""
    return settings(max_examples=max(1, round(times * settings().max_examples)), **more)
