"""Screenshots of a page: `python -m tests.browser.screenshots FOLDER [ADDRESS]`; without an address of a small one."""

import sys
from pathlib import Path

from tests.browser.chromium import chromium, served
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.page import PageRig, Shelf, marks, pipeline_state
from tests.support.rigs.search import COLLECTION, DOCUMENTS, Library

SIZES = {320: 900, 1280: 1000, 3840: 2160}
SCHEMES = ("light", "dark")
PAGES = {
    "search": "/?q=compress+data+into+an+archive&scores=1",
    "partitions": "/partitions",
    "pipeline": "/pipeline",
}
TEXT = "Compress data into an archive. The archive has a header for each file, and its data may be compressed. "


def take(address: str, folder: Path) -> None:
    """Every page at every size, light and dark."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for width, height in SIZES.items():
            for scheme in SCHEMES:
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                page = context.new_page()
                for name, path in PAGES.items():
                    page.goto(address + path)
                    page.screenshot(path=folder / f"page-{name}-{width}-{scheme}.png")
                context.close()


def example() -> PageRig:
    """Some documents over a month, one Milvus partition not loaded."""
    milvus = FakeMilvus()
    milvus.create_collection(DOCUMENTS)
    library = Library(milvus)
    for number in range(60):
        day = f"2026-11-{number * number % 29 + 1:02}"
        metadata = {
            "title": f"Archives, part {number}",
            "kind": "class" if number % 2 else "function",
            "module": "zipfile",
        }
        library.put(f"zipfile.part{number}", number, day, text=TEXT * (number % 8 + 1), **metadata)
    milvus.release_partitions(COLLECTION, ["d20261101", "d20261102"])
    shelf = Shelf()
    return PageRig(milvus, documents=shelf, freshness=shelf, marks=marks, pipeline=pipeline_state)


def main() -> None:
    """Take them."""
    if len(sys.argv) > 2:
        take(sys.argv[2], Path(sys.argv[1]))
        return
    rig = example()
    with served(rig.app) as address:
        take(address, Path(sys.argv[1]))
    rig.close()


if __name__ == "__main__":
    main()
