"""What pages load: in the package, unchanged, with its licence, and kept by browsers only under its own digest."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from consumers.query.web.render import static_address, static_files
from tests.support.rigs.page import PageRig

ROOT = Path(__file__).parents[5]
FOLDER = ROOT / "consumers/query/web"


def test_vendored_files_are_what_the_manifest_says() -> None:
    manifest = json.loads((FOLDER / "static/vendored.json").read_text())
    scripts = {file.name for file in (FOLDER / "static").glob("*.js")}
    assert manifest.keys() == scripts
    for name, entry in manifest.items():
        assert hashlib.sha256((FOLDER / "static" / name).read_bytes()).hexdigest() == entry["sha256"]
        assert entry["version"] in (FOLDER / "static" / name).read_text()
        assert (FOLDER / "static" / entry["licence_file"]).read_text().strip()


def test_nothing_is_loaded_from_elsewhere() -> None:
    for file in [*FOLDER.rglob("*.html"), *FOLDER.rglob("*.css"), *FOLDER.rglob("*.svg")]:
        for address in re.findall(r"(?:https?:)?//[^\s\"')]+", file.read_text()):
            assert address == "http://www.w3.org/2000/svg", f"{file.name}: {address}"


@pytest.mark.parametrize("name", sorted(static_files()))
def test_a_file_is_served_with_its_type_for_ever(rig: PageRig, name: str) -> None:
    response = rig.get(static_address(name))
    assert response.status_code == 200
    assert response.content == (FOLDER / "static" / name).read_bytes()
    assert response.headers["content-type"] == static_files()[name].media_type
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["vendored.json", "missing.js", "..%2Fform.py", "%2e%2e/form.py", "page.css/", ""])
def test_no_other_file_is_served(rig: PageRig, name: str) -> None:
    assert rig.get(f"/static/{name}").status_code == 404
