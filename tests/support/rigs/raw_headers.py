"""Records with header names that are not UTF-8, which clients in other languages can send."""

from contextlib import closing

from kafka import KafkaProducer


class RawName(str):
    """A header name that is sent as these bytes."""

    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> "RawName":
        name = cls(raw.decode("latin-1"))
        name.raw = raw
        return name

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return self.raw


def produce_around(bootstrap: str, topic: str, name: bytes, values: list[bytes], codec: str | None = None) -> None:
    """One batch with these values; the record in the middle has a header of this name between two others."""
    config = {"linger_ms": 1_000, "batch_size": 2**20, "compression_type": codec}
    with closing(KafkaProducer(bootstrap_servers=bootstrap, **config)) as producer:
        for index, value in enumerate(values):
            headers = [("before", b"1")]
            if index == len(values) // 2:
                headers += [(RawName.of(name), b"\x00\xff"), ("after", b"2")]
            producer.send(topic, value, key=b"k%d" % index, headers=headers)
        producer.flush()
