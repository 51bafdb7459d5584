"""Apache Kafka and Milvus together in the foreground, until a signal."""

import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Literal

from consumers.local.kafka import LocalKafka
from consumers.local.milvus import LocalMilvusLite, LocalMilvusStandalone

_CHECK_INTERVAL_S = 0.5


def run_local(
    milvus: Literal["lite", "standalone"],
    directory: Path | None = None,
    kafka_port: int | None = None,
    milvus_port: int | None = None,
    *,
    prepare: Callable[[str, str], None] = lambda _kafka, _milvus: None,
) -> None:
    """Run Kafka and Milvus until SIGTERM or Ctrl-C; prints one JSON line with their addresses once both answer.

    `prepare` is called with the addresses before they are printed: what it makes is there for whoever reads the line.
    Data stays in `directory`; without one it goes to a temporary folder, removed at the end. Call from the main thread.
    UsageError: a port is taken, the folder is in use or a package is missing. Unavailable: a server did not start, or
    ended; the message ends with the last lines of its log.
    """
    with contextlib.suppress(KeyboardInterrupt), _one_interrupt(), contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="milvus-stream-")))
        milvus_class = LocalMilvusLite if milvus == "lite" else LocalMilvusStandalone
        servers = [
            LocalKafka(directory / "kafka", kafka_port),
            milvus_class(directory / f"milvus-{milvus}", milvus_port),
        ]
        print(f"Starting {' and '.join(server.title for server in servers)} in {directory} …", file=sys.stderr)  # noqa: T201
        for server in servers:
            stack.callback(server.stop)
            server.launch()
        kafka_address, milvus_address = (server.await_ready() for server in servers)
        prepare(kafka_address, milvus_address)
        print(json.dumps({"kafka": kafka_address, "milvus": milvus_address}), flush=True)  # noqa: T201
        while True:
            for server in servers:
                server.check()
            time.sleep(_CHECK_INTERVAL_S)


@contextlib.contextmanager
def _one_interrupt() -> Iterator[None]:
    """Turn the first SIGTERM or SIGINT into KeyboardInterrupt; later ones must not break off the stopping."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
