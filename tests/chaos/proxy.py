"""A TCP proxy that stands between a worker and a server and misbehaves on demand."""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the bytes for the time being."""

    kind: str = "none"
    """none | delay | blackhole | reset | cut."""
    seconds: tuple[float, float] = (0.0, 0.0)
    """`delay`: how long each piece is held, at least and at most."""
    after_bytes: int = 0
    """`cut`: so many bytes of answers still pass on each connection, then it is reset: the request has arrived."""


class FaultProxy:
    """Forwards 127.0.0.1:`port` to `target`; runs on a thread of its own until `close`."""

    def __init__(self, target_port: int, seed: int, port: int = 0) -> None:
        self._target_port = target_port
        self._random = random.Random(seed)
        self._fault = Fault()
        self._healed = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.refused = 0
        """Connections and pieces that met a fault."""
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    def inject(self, fault: Fault) -> None:
        """Misbehave from now on; a reset breaks the open connections, too."""
        self._call(lambda: self._begin(fault))

    def heal(self) -> None:
        """Forward everything from now on. What a blackhole held back is gone with its connection."""
        self._call(lambda: self._begin(Fault()))

    def close(self) -> None:
        """Break every connection and stop listening."""
        self._call(self._stop)
        self._thread.join(5)

    def _call(self, what: Callable[[], None]) -> None:
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(what)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._accept, sock=self._listener)
        async with server:
            await self._stopped.wait()
            for task in list(self._connections):
                task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _stop(self) -> None:
        self._stopped.set()

    def _begin(self, fault: Fault) -> None:
        was, self._fault = self._fault, fault
        if fault.kind == "none":
            self._healed.set()
            if was.kind == "blackhole":
                self._break_all()  # a connection that lost bytes cannot go on
        else:
            self._healed.clear()
        if fault.kind == "reset":
            self._break_all()

    def _break_all(self) -> None:
        for task in list(self._connections):
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            _reset(writer)
        finally:
            self._connections.discard(task)
            with suppress(OSError):
                writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault.kind == "reset":
            self.refused += 1
            _reset(writer)
            return
        if self._fault.kind == "blackhole":
            self.refused += 1
            await self._healed.wait()
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _reset(writer)
            return
        pumps = [
            asyncio.ensure_future(self._pump(reader, forth, answers=False)),
            asyncio.ensure_future(self._pump(back, writer, answers=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            _reset(forth)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        left: int | None = None
        while piece := await reader.read(_PIECE):
            fault = self._fault
            if fault.kind == "delay":
                self.refused += 1
                await asyncio.sleep(self._random.uniform(*fault.seconds))
            elif fault.kind == "blackhole":
                self.refused += 1
                await self._healed.wait()
                return
            elif fault.kind == "cut" and answers:
                left = fault.after_bytes if left is None else left
                if left < len(piece):
                    self.refused += 1
                    return
                left -= len(piece)
            else:
                left = None
            writer.write(piece)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a crashed peer or a firewall does."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError, RuntimeError):
        writer.transport.abort()
