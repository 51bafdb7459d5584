"""No request shows a tenant anything of another one, whatever it holds; and the test would see it."""

from pathlib import Path

import pytest

import pipeline.query.plan as plan_module
from tests.support.rigs.tenants import COLLECTION, attack, fake


def test_no_request_widens_a_tenant(tmp_path: Path) -> None:
    attacker = attack(fake(), COLLECTION, tmp_path, tries=1_500, seed=7)
    assert attacker.foreign == []
    assert attacker.statuses[200] > 1_200, "most requests reach Milvus"
    assert attacker.results > 1_500


def test_the_attack_finds_a_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a restriction that the filter of a request can leave, and of one that is not checked afterwards."""
    monkeypatch.setattr(plan_module, "within_tenant", lambda term, expression: f"{term} or {expression}".strip(" or"))
    monkeypatch.setattr("pipeline.query.candidates.check_tenant", lambda *_: None)
    assert attack(fake(), COLLECTION, tmp_path, tries=50, seed=7).foreign
