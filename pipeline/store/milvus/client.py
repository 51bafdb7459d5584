"""The connection to a Milvus server over pymilvus: deadlines, one retry policy, errors of `pipeline.errors`."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
import numpy as np
from pymilvus import MilvusClient, MilvusException
from pymilvus.exceptions import ConnectionConfigException
from typing_extensions import override

from pipeline.errors import NotFound, NotLoaded, Unavailable, UsageError
from pipeline.store.milvus.addresses import channel_options, keep_brackets, proxy_hint, server_address
from pipeline.store.milvus.admin import CollectionAdmin
from pipeline.store.milvus.api import DEFAULT_PARTITION, Hit, MilvusServerApi, Row, VectorSearch
from pipeline.store.milvus.calls import Observer, RetryingCaller, error_text, unobserved
from pipeline.store.milvus.column_packing import pack_upserts
from pipeline.store.milvus.conversion import (
    hits,
    plain_row,
    sdk_rows,
    server_info,
)
from pipeline.store.milvus.error_mapping import Call, RetryPolicy, classify, to_error
from pipeline.store.milvus.expressions import ids_expression
from pipeline.store.milvus.reachability import Reachability
from pipeline.store.milvus.write_lease import LeftS

T = TypeVar("T")

FAILURES: tuple[type[Exception], ...] = (MilvusException, grpc.RpcError)
FLUSH_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 5.0
_UNWATCH_S = 0.3


def connect(
    uri: str,
    token: str | None = None,
    *,
    timeout_s: float = 10.0,
    retry: RetryPolicy | None = None,
    recovering_s: float | None = None,
    observe: Observer = unobserved,
    fail_fast: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] | None = None,
) -> "MilvusServer":
    """Open a new connection and read the server's version.

    `timeout_s` bounds each attempt of a data call; `retry` bounds all attempts. `recovering_s`, where no `retry` is
    given: how long a call waits for a shard that is not serviceable. `fail_fast`: calls raise MilvusAway at once, and
    are not repeated, while the server does not answer at all; for processes whose clients wait. Raises `Unavailable` at
    once where nothing answers (the caller decides whether to wait for a server), `UsageError` for a bad address or
    token.
    """
    address = server_address(uri)
    # pymilvus logs a traceback at ERROR for every failed call, with parts of the request in it.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    keep_brackets()
    try:
        client = MilvusClient(
            uri,
            token=token or "",
            timeout=min(timeout_s, CONNECT_TIMEOUT_S),
            dedicated=True,
            grpc_options=channel_options(uri),
        )
        try:
            version = client.get_server_version(timeout=timeout_s, retry_on_rate_limit=False)
        except BaseException:
            client.close()
            raise
    except ConnectionConfigException as error:
        raise UsageError(f"milvus.uri {address} cannot be used: {error_text(error)}") from error
    except FAILURES as error:
        failed = to_error(classify(error), Call("connect"), error_text(error))
        if isinstance(failed, UsageError):
            raise failed from error
        hint = proxy_hint(uri, os.environ)
        raise Unavailable(f"Milvus at {address} does not answer; is it running?{hint} {error_text(error)}") from error
    reachability = Reachability(FAILURES, partial(_probe, client), clock) if fail_fast else None
    run = RetryingCaller(
        FAILURES,
        timeout_s=timeout_s,
        retry=retry or RetryPolicy(total_s=1.2 * timeout_s, recovering_s=recovering_s),
        observe=observe,
        clock=clock,
        sleep=sleep,
        reachability=reachability,
    )
    pack_upserts(client, run.lease.check)
    if reachability is not None:
        reachability.start()
    return MilvusServer(client, server_info(version), run)


def _probe(client: MilvusClient, timeout_s: float) -> None:
    client.get_server_version(timeout=timeout_s, retry_on_rate_limit=False)


class MilvusServer(CollectionAdmin, MilvusServerApi):
    """`MilvusServerApi` on one connection; may be used by several threads.

    pymilvus repeats a call by itself when it has reconnected after a broken connection, and no option turns that off.
    The call's deadline bounds it, so a call may take up to `longest_write_s`.
    """

    @property
    def longest_write_s(self) -> float:
        """Upper limit in seconds of an `upsert` or `delete`, whatever its outcome."""
        return self._run.longest_s + CONNECT_TIMEOUT_S

    @override
    def check_reachable(self) -> None:
        self._run.check_reachable()

    @override
    def check_serving(self, collection: str) -> None:
        self._run.check_serving(collection)

    @override
    def fence(self, left_s: LeftS) -> None:
        self._run.lease.bind(left_s)

    @override
    def unfenced(self) -> AbstractContextManager[None]:
        return self._run.lease.waived()

    @override
    def on_lost(self, lost: Callable[[], None]) -> None:
        self._run.watch.on_lost(lost)
        # pymilvus makes a new channel after a broken connection, and moves the callbacks of its handler to it.
        self._client._handler.register_state_change_callback(self._run.watch.state_changed)

    # --- rows --------------------------------------------------------------------------------------------------

    @override
    def upsert(self, collection: str, partition: str | None, rows: Sequence[Row]) -> None:
        if rows:
            # Lite's upsert would keep metadata that only the old row had; a server's insert would store a second row.
            write = self._client.insert if self._server.capabilities.insert_replaces_rows else self._client.upsert
            self._run(
                Call("upsert", collection, "rows"),
                write,
                collection,
                sdk_rows(rows),
                partition_name=partition or DEFAULT_PARTITION,
                leased=True,
            )

    @override
    def delete(self, collection: str, partition: str | None, ids: Sequence[str]) -> None:
        if ids:
            self._run(
                Call("delete", collection, "rows"),
                self._client.delete,
                collection,
                filter=ids_expression(ids),
                partition_name=partition or DEFAULT_PARTITION,
                leased=True,
            )

    @override
    def query(
        self,
        collection: str,
        expression: str,
        fields: Sequence[str],
        *,
        partitions: Sequence[str] | None = None,
        strong: bool = False,
        since: int | None = None,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> list[dict[str, Any]]:
        self._check_partitions(collection, partitions)
        options = _consistency(strong, since)
        if limit is not None:
            options["limit"] = limit
        rows = self._read(
            Call("query", collection),
            self._client.query,
            collection,
            filter=expression,
            output_fields=list(fields),
            partition_names=None if partitions is None else list(partitions),
            total_s=timeout,
            **options,
        )
        return [plain_row(row) for row in rows]

    @override
    def search(self, collection: str, search: VectorSearch) -> list[list[Hit]]:
        by_words = not isinstance(search.queries, np.ndarray)
        if by_words and not self._server.capabilities.bm25:
            raise UsageError(f"keyword search needs Milvus 2.5 or newer, or Lite; the server is {self._server.version}")
        if not len(search.queries):
            return []
        self._check_partitions(collection, search.partitions)
        answer = self._read(
            Call("search", collection),
            self._client.search,
            collection,
            data=list(search.queries),
            # With none named, Lite answers every field, the vector too.
            output_fields=list(search.fields) or ["id"],
            partition_names=None if search.partitions is None else list(search.partitions),
            limit=search.limit,
            total_s=search.timeout_s,
            anns_field=search.anns_field,
            filter=search.expression,
            **_consistency(search.strong, search.since),
            **({} if by_words else {"search_params": {"params": dict(search.params)}}),
        )
        return hits(answer, search.fields)

    def _read(self, call: Call, function: Callable[..., T], collection: str, **options: Any) -> T:
        try:
            answer = self._run(call, function, collection, **options)
        except NotLoaded:
            if self._server.capabilities.reloads_after_restart:
                raise
            self.load_collection(collection)
            return self._run(call, function, collection, **options)
        self._remember_loaded(collection)
        return answer

    @override
    def count(self, collection: str, *, partitions: Sequence[str] | None = None) -> int:
        self._check_partitions(collection, partitions)
        if partitions is not None and not self._server.capabilities.counts_by_partition:
            # Lite's statistics are exact, unlike those of a server.
            call = Call("count", collection)
            stats = [self._run(call, self._client.get_partition_stats, collection, name) for name in partitions]
            return sum(int(answer["row_count"]) for answer in stats)
        rows = self.query(collection, "", ["count(*)"], partitions=partitions, strong=True)
        return int(rows[0]["count(*)"])

    def flush(self, collection: str) -> None:
        """Seal and persist what was acknowledged before the call. One attempt: a failed flush is better made later."""
        if not self._server.capabilities.refuses_missing_names and self.describe(collection) is None:
            raise NotFound(f"flush: there is no collection {collection!r}")
        self._run(
            Call("flush", collection, "rows"),
            self._client.flush,
            collection,
            attempt_s=FLUSH_TIMEOUT_S,
            repeat=False,
        )

    def close(self) -> None:
        """Close the connection; further calls, and those that wait for another attempt, raise `Unavailable`."""
        self._run.close()
        if self._run.watch.watched:
            self._client._handler.deregister_state_change_callbacks()
            # gRPC's thread looks five times a second whether it is still needed. A channel closed under it makes it
            # print a traceback.
            time.sleep(_UNWATCH_S)
        self._client.close()

    def _check_partitions(self, collection: str, partitions: Sequence[str] | None) -> None:
        """Raise NotFound for a Milvus partition that does not exist, where the server itself would answer no rows."""
        if partitions is not None and not self._server.capabilities.refuses_missing_names:
            missing = set(partitions) - {DEFAULT_PARTITION, *self.partitions(collection)}
            if missing:
                raise NotFound(f"collection {collection!r} has no Milvus partition {', '.join(sorted(missing))}")


def _consistency(strong: bool, since: int | None) -> dict[str, Any]:
    """The options of a read. A strong one costs some 300 ms; `since` waits until the server has passed that instant."""
    if since is not None:
        return {"consistency_level": "Customized", "guarantee_timestamp": since}
    return {"consistency_level": "Strong" if strong else "Bounded"}
