"""Records in Confluent's wire format, written by Confluent's own serializers."""

from collections.abc import Callable
from functools import cache
from typing import Any

from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)

TOPIC = "documents"
VALUE, KEY = MessageField.VALUE, MessageField.KEY
Header = tuple[str, Any]
Write = Callable[..., bytes]

AVRO_SCHEMA = """{"type": "record", "name": "Ticket", "namespace": "com.example", "fields": [
  {"name": "id", "type": ["long", "string"]},
  {"name": "text", "type": "string"},
  {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
  {"name": "changed", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}], "default": null},
  {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}], "default": null},
  {"name": "price", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}],
   "default": null},
  {"name": "uid", "type": ["null", {"type": "string", "logicalType": "uuid"}], "default": null},
  {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OPEN", "DONE"]}, "default": "OPEN"},
  {"name": "raw", "type": ["null", "bytes"], "default": null},
  {"name": "owner", "type": ["null", {"type": "record", "name": "Owner", "fields": [
    {"name": "name", "type": "string"}, {"name": "rank", "type": "double"}]}], "default": null},
  {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
  {"name": "counts", "type": {"type": "map", "values": "int"}, "default": {}},
  {"name": "deleted", "type": "boolean", "default": false}]}"""

JSON_SCHEMA = """{"$schema": "http://json-schema.org/draft-07/schema#", "title": "Ticket", "type": "object",
  "properties": {"id": {"type": "string"}, "text": {"type": "string"}, "deleted": {"type": "boolean"}},
  "required": ["id"]}"""


def client(address: str) -> SchemaRegistryClient:
    """Confluent's client of the registry."""
    return SchemaRegistryClient({"url": address})


def avro(address: str, schema: str = AVRO_SCHEMA, **options: Any) -> Write:
    """Writes values with an Avro schema."""
    return _writer(AvroSerializer(client(address), schema, **options))


def json_schema(address: str, schema: str = JSON_SCHEMA, **options: Any) -> Write:
    """Writes values with a JSON Schema."""
    return _writer(JSONSerializer(schema, client(address), **options))


def protobuf(address: str, message: type, **options: Any) -> Write:
    """Writes messages of one class."""
    return _writer(ProtobufSerializer(message, client(address), {"use.deprecated.format": False}, **options))


def in_header() -> dict[str, Any]:
    """Options of a serializer: the schema's GUID goes into a header."""
    return {"conf": {"schema.id.serializer": header_schema_id_serializer}}


def _writer(serializer: Any) -> Write:
    def write(value: Any, part: MessageField = VALUE, headers: list[Header] | None = None, topic: str = TOPIC) -> bytes:
        written = serializer(value, SerializationContext(topic, part, headers))
        assert isinstance(written, bytes)
        return written

    return write


@cache
def proto_classes() -> dict[str, Any]:
    """The classes of ticket.proto, as protoc would generate them.

    message Ticket {
      string id = 1; string text = 2; google.protobuf.Timestamp event_time = 3; int64 size = 4; bool urgent = 5;
      State state = 6; bytes raw = 7; map<string, int32> counts = 8; repeated Owner owners = 9;
      oneof contact { string mail = 10; int64 phone = 11; } google.protobuf.Int64Value votes = 12;
      google.protobuf.Struct more = 13; double rank = 14; optional bool deleted = 15; Ticket parent = 16;
      google.protobuf.Duration took = 17; uint64 serial = 18;
      message Part { string id = 1; string text = 2; }
    }
    """
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="ticket.proto", package="example", syntax="proto3")
    file.dependency.extend(f"google/protobuf/{name}.proto" for name in ("timestamp", "wrappers", "struct", "duration"))
    file.dependency.append("owner.proto")
    ticket = file.message_type.add(name="Ticket")
    part = ticket.nested_type.add(name="Part")
    for number, name in enumerate(("id", "text"), 1):
        part.field.add(name=name, number=number, type=types.TYPE_STRING, label=types.LABEL_OPTIONAL)
    entry = ticket.nested_type.add(name="CountsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=types.TYPE_STRING, label=types.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=types.TYPE_INT32, label=types.LABEL_OPTIONAL)
    ticket.oneof_decl.add(name="contact")
    ticket.oneof_decl.add(name="_deleted")
    state = file.enum_type.add(name="State")
    for number, name in enumerate(("OPEN", "DONE")):
        state.value.add(name=name, number=number)

    def add(name: str, number: int, kind: Any, type_name: str = "", **more: Any) -> None:
        label = more.pop("label", types.LABEL_OPTIONAL)
        field = ticket.field.add(name=name, number=number, type=kind, label=label, **more)
        if type_name:
            field.type_name = type_name

    message = types.TYPE_MESSAGE
    add("id", 1, types.TYPE_STRING)
    add("text", 2, types.TYPE_STRING)
    add("event_time", 3, message, ".google.protobuf.Timestamp")
    add("size", 4, types.TYPE_INT64)
    add("urgent", 5, types.TYPE_BOOL)
    add("state", 6, types.TYPE_ENUM, ".example.State")
    add("raw", 7, types.TYPE_BYTES)
    add("counts", 8, message, ".example.Ticket.CountsEntry", label=types.LABEL_REPEATED)
    add("owners", 9, message, ".example.Owner", label=types.LABEL_REPEATED)
    add("mail", 10, types.TYPE_STRING, oneof_index=0)
    add("phone", 11, types.TYPE_INT64, oneof_index=0)
    add("votes", 12, message, ".google.protobuf.Int64Value")
    add("more", 13, message, ".google.protobuf.Struct")
    add("rank", 14, types.TYPE_DOUBLE)
    add("deleted", 15, types.TYPE_BOOL, oneof_index=1, proto3_optional=True)
    add("parent", 16, message, ".example.Ticket")
    add("took", 17, message, ".google.protobuf.Duration")
    add("serial", 18, types.TYPE_UINT64)

    owner = descriptor_pb2.FileDescriptorProto(name="owner.proto", package="example", syntax="proto3")
    owner.message_type.add(name="Owner").field.add(
        name="name", number=1, type=types.TYPE_STRING, label=types.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    for module in (timestamp_pb2, wrappers_pb2, struct_pb2, duration_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for described in (owner, file):
        pool.AddSerializedFile(described.SerializeToString())
    names = ("Ticket", "Ticket.Part", "Owner")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"example.{name}")) for name in names}
