"""Screenshots of a query worker's page: `python -m tests.browser.screenshots ADDRESS FOLDER`.

Those of the docs are of `milvus-stream demo --keep`.
"""

import sys
from pathlib import Path
from typing import Literal

from tests.browser.chromium import chromium

SIZES = {1280: 900, 320: 900, 3840: 2160}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PAGES = {"search": "/?q=compress+data+into+an+archive&scores=1", "partitions": "/partitions", "pipeline": "/pipeline"}


def take(address: str, folder: Path) -> None:
    """Take every page at every size, light and dark."""
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


if __name__ == "__main__":
    take(sys.argv[1], Path(sys.argv[2]))
