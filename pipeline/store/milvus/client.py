"""Milvus over pymilvus: every call with a deadline, one retry policy, errors of ours."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from pymilvus import MilvusClient, MilvusException
from pymilvus.exceptions import ConnectionConfigException

from pipeline.errors import NotFound, NotLoaded, Unavailable, UsageError
from pipeline.store.milvus.addresses import channel_options, keep_brackets, proxy_hint, server_address
from pipeline.store.milvus.admin import DEFAULT_PARTITION, CollectionAdmin
from pipeline.store.milvus.api import Hit, Row
from pipeline.store.milvus.calls import Observer, RetryingCaller, error_text, unobserved
from pipeline.store.milvus.column_packing import pack_upserts
from pipeline.store.milvus.conversion import (
    hits,
    ids_expression,
    plain_row,
    sdk_rows,
    server_info,
)
from pipeline.store.milvus.error_mapping import Call, RetryPolicy, classify, to_error
from pipeline.store.milvus.write_lease import LeftS

T = TypeVar("T")

FAILURES: tuple[type[Exception], ...] = (MilvusException, grpc.RpcError)
FLUSH_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 5.0


def connect(
    uri: str,
    token: str | None = None,
    *,
    timeout_s: float = 10.0,
    retry: RetryPolicy | None = None,
    observe: Observer = unobserved,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] | None = None,
) -> "MilvusServer":
    """Open a connection of its own and ask the server's version.

    `timeout_s` bounds each attempt of a data call; `retry` bounds them together. Raises `Unavailable` at once where
    nothing answers (waiting for a server to come up is the caller's), `UsageError` for a bad address or token.
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
    run = RetryingCaller(
        FAILURES,
        timeout_s=timeout_s,
        retry=retry or RetryPolicy(total_s=1.2 * timeout_s),
        observe=observe,
        clock=clock,
        sleep=sleep,
    )
    pack_upserts(client, run.lease.check)
    return MilvusServer(client, server_info(version), run)


class MilvusServer(CollectionAdmin):
    """`MilvusServerApi` on one connection; may be used by several threads.

    pymilvus cannot be kept from retrying a call whose connection broke once it could reconnect; its deadline bounds
    that, so a call may take `longest_write_s` where nothing answers.
    """

    @property
    def longest_write_s(self) -> float:
        """After this many seconds an `upsert` or `delete` has ended, one way or the other."""
        return self._run.longest_s + CONNECT_TIMEOUT_S

    def fence(self, left_s: LeftS) -> None:
        """Send `upsert` and `delete` only if they end within `left_s()`."""
        self._run.lease.bind(left_s)

    # --- rows --------------------------------------------------------------------------------------------------

    def upsert(self, collection: str, partition: str | None, rows: Sequence[Row]) -> None:
        """Store the rows in one request, replacing those with the same `id` in this Milvus partition."""
        if rows:
            # Lite's upsert keeps what the old row had and the new one lacks, such as metadata that was removed; its
            # insert replaces by id. On a server it is the other way round: insert would store a second row.
            write = self._client.insert if self._server.lite else self._client.upsert
            self._run(
                Call("upsert", collection, "rows"),
                write,
                collection,
                sdk_rows(rows),
                partition_name=partition or DEFAULT_PARTITION,
                leased=True,
            )

    def delete(self, collection: str, partition: str | None, ids: Sequence[str]) -> None:
        """Delete rows by `id` in this Milvus partition (Lite: everywhere)."""
        if ids:
            self._run(
                Call("delete", collection, "rows"),
                self._client.delete,
                collection,
                filter=ids_expression(ids),
                partition_name=partition or DEFAULT_PARTITION,
                leased=True,
            )

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
        """Rows that match, the field `vector` as a float32 array.

        `strong` costs some 300 ms each time, `since` only until the server has got past that instant.
        """
        self._check_partitions(collection, partitions)
        options: dict[str, Any] = {"consistency_level": "Strong" if strong else "Bounded"}
        if since is not None:
            options = {"consistency_level": "Customized", "guarantee_timestamp": since}
        if limit is not None:
            options["limit"] = limit
        found = self._read(
            Call("query", collection),
            self._client.query,
            collection,
            filter=expression,
            output_fields=list(fields),
            partition_names=None if partitions is None else list(partitions),
            total_s=timeout,
            **options,
        )
        return [plain_row(row) for row in found]

    def search(
        self,
        collection: str,
        vectors: NDArray[np.float32],
        limit: int,
        *,
        field: str = "vector",
        expression: str = "",
        fields: Sequence[str] = (),
        partitions: Sequence[str] | None = None,
        params: Mapping[str, Any] | None = None,
        strong: bool = False,
        timeout: float | None = None,
    ) -> list[list[Hit]]:
        """The nearest rows of each vector by the index's metric; `params` are those of the index (`ef` …)."""
        return self._search(
            collection,
            list(vectors),
            fields,
            partitions=partitions,
            limit=limit,
            total_s=timeout,
            anns_field=field,
            filter=expression,
            search_params={"params": dict(params or {})},
            consistency_level="Strong" if strong else "Bounded",
        )

    def search_text(
        self,
        collection: str,
        texts: Sequence[str],
        limit: int,
        *,
        expression: str = "",
        fields: Sequence[str] = (),
        partitions: Sequence[str] | None = None,
        strong: bool = False,
        timeout: float | None = None,
    ) -> list[list[Hit]]:
        """The rows that match each text best by BM25 on `text`; best first."""
        if not self._server.bm25:
            raise UsageError(f"keyword search needs Milvus 2.5 or newer, or Lite; the server is {self._server.version}")
        return self._search(
            collection,
            list(texts),
            fields,
            partitions=partitions,
            limit=limit,
            total_s=timeout,
            anns_field="sparse",
            filter=expression,
            consistency_level="Strong" if strong else "Bounded",
        )

    def _search(
        self,
        collection: str,
        queries: list[Any],
        fields: Sequence[str],
        *,
        partitions: Sequence[str] | None,
        **options: Any,
    ) -> list[list[Hit]]:
        if not queries:
            return []
        self._check_partitions(collection, partitions)
        found = self._read(
            Call("search", collection),
            self._client.search,
            collection,
            data=queries,
            # With none named, Lite answers every field, the vector too.
            output_fields=list(fields) or ["id"],
            partition_names=None if partitions is None else list(partitions),
            **options,
        )
        return hits(found, fields)

    def _read(self, call: Call, function: Callable[..., T], collection: str, **options: Any) -> T:
        try:
            found = self._run(call, function, collection, **options)
        except NotLoaded:
            if not self._server.lite:
                raise
            # A server loads again by itself what was loaded before it was restarted, Lite does not.
            self.load_collection(collection)
            return self._run(call, function, collection, **options)
        if not self._server.lite:
            self._run.loaded(collection)
        return found

    def count(self, collection: str, *, partitions: Sequence[str] | None = None) -> int:
        """Rows that a strong read sees, deletes taken into account."""
        self._check_partitions(collection, partitions)
        if partitions is not None and self._server.lite:
            # count(*) of Lite ignores the partitions; its statistics are exact, unlike those of a server.
            call = Call("count", collection)
            stats = [self._run(call, self._client.get_partition_stats, collection, name) for name in partitions]
            return sum(int(answer["row_count"]) for answer in stats)
        found = self.query(collection, "", ["count(*)"], partitions=partitions, strong=True)
        return int(found[0]["count(*)"])

    def flush(self, collection: str) -> None:
        """Seal and persist what was acknowledged before the call; one attempt, because later is better than again."""
        if self._server.lite and self.describe(collection) is None:
            raise NotFound(f"flush: there is no collection {collection!r}")
        self._run(
            Call("flush", collection, "rows"),
            self._client.flush,
            collection,
            attempt_s=FLUSH_TIMEOUT_S,
            repeat=False,
        )

    def close(self) -> None:
        """Close the connection; further calls raise `Unavailable`, and so do those that wait for another attempt."""
        self._run.close()
        self._client.close()

    def _check_partitions(self, collection: str, partitions: Sequence[str] | None) -> None:
        """Lite answers "nothing found" for a partition that does not exist, where a server says so."""
        if self._server.lite and partitions is not None:
            missing = set(partitions) - {DEFAULT_PARTITION, *self.partitions(collection)}
            if missing:
                raise NotFound(f"collection {collection!r} has no Milvus partition {', '.join(sorted(missing))}")
