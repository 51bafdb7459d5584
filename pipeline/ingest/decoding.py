"""Decoding that waits for the schema registry."""

from pipeline.errors import Unavailable
from pipeline.ingest.circuit_breaker import CircuitBreaker
from pipeline.intake import Decoder
from pipeline.records import Operation, SourceRecord


class PatientDecoder:
    """A decoder that repeats what needs a registry which cannot be asked at the moment.

    An outage of the registry says nothing about a record: nothing is dead-lettered for it.
    """

    def __init__(self, decoder: Decoder, breaker: CircuitBreaker) -> None:
        """`breaker`: that of the registry."""
        self._decoder = decoder
        self._breaker = breaker

    def decode(self, record: SourceRecord, now_ms: int | None) -> Operation:
        """As that of the decoder. Blocks during an outage. Raises Stopped where the flow ends before."""
        try:
            return self._decoder.decode(record, now_ms)
        except Unavailable:  # the breaker is not passed for each record: its locks cost as much as decoding
            return self._breaker.call("decode", lambda: self._decoder.decode(record, now_ms))

    def identify(self, record: SourceRecord) -> tuple[str | None, str] | None:
        """As that of the decoder. Blocks during an outage. Raises Stopped where the flow ends before."""
        try:
            return self._decoder.identify(record)
        except Unavailable:
            return self._breaker.call("decode", lambda: self._decoder.identify(record))
