"""A client of Milvus for tests, beside the product's own."""

from pymilvus import MilvusClient


def milvus_client(uri: str) -> MilvusClient:
    """Open a client with a connection of its own; close it after use.

    Otherwise gRPC lets all clients of a process share one. Milvus Lite ends a connection over which idle clients send
    keep-alives, and what another client has just begun fails with it ("too many pings").
    """
    return MilvusClient(uri, dedicated=True, grpc_options={"grpc.use_local_subchannel_pool": 1})
