"""An ingest worker whose flushes are refused while a file is there, as by a server that limits their rate."""

import sys
from pathlib import Path

from consumers.cli.app import main as command_line
from pipeline.errors import RateLimited
from pipeline.store.milvus.client import MilvusServer


def main() -> None:
    """`python -m tests.chaos.worker REFUSING ingest …`: the command line of the product after the file's name."""
    refusing = Path(sys.argv.pop(1))
    flush = MilvusServer.flush

    def limited(self: MilvusServer, collection: str) -> None:
        if refusing.exists():
            raise RateLimited(f"flush of collection {collection!r}: rate limit exceeded (injected)")
        flush(self, collection)

    MilvusServer.flush = limited  # type: ignore[method-assign]
    sys.argv[0] = "milvus-stream"
    command_line()


if __name__ == "__main__":
    main()
