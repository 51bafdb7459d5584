"""Protobuf: from a registered schema to a function that reads the messages written with it.

Field names are those of the .proto file. Values are those of Protobuf's mapping to JSON, but for integers of 64 bits,
which stay numbers. Confluent's deserializer needs a class generated for each message; here the schema is all there is.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import RecordRejected
from pipeline.intake.formats.registry.plain import base64, finite, plain
from pipeline.intake.formats.registry.schemas import RegisteredSchema
from pipeline.intake.formats.registry.wire import message_indexes
from pipeline.intake.formats.values import MAX_DEPTH, too_deep
from pipeline.intake.reasons import Reason, quoted

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import Message

_ROOT = "value.proto"
_OWN_TEXT = frozenset(f"google.protobuf.{name}" for name in ("Timestamp", "Duration", "FieldMask"))
_STRUCTS = frozenset(f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue"))
_WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)

Convert = Callable[[Any, str, int], Any]
"""Value, name of the field at the top, levels above it."""


class ProtobufReader:
    """Reads messages of one .proto file; pure, so one may serve several threads."""

    def __init__(self, schema: RegisteredSchema, mapped: frozenset[str]) -> None:
        """`mapped`: fields with a meaning. Raises Exception of many kinds where the schema cannot be used."""
        from google.protobuf import descriptor_pool  # noqa: PLC0415 - an extra

        pool = descriptor_pool.DescriptorPool()
        added: set[str] = set()
        for name, text in schema.references:
            _add(pool, name, text, added)
        _add(pool, _ROOT, schema.text, added)
        self._file = pool.FindFileByName(_ROOT)
        self._mapped = mapped
        self._messages: dict[tuple[int, ...], tuple[Callable[[bytes], Message], _Fields]] = {}
        self._fields: dict[str, _Fields] = {}

    def read(self, body: bytes) -> dict[str, Any]:
        """The fields of the message. Raises RecordRejected, ValueError for bytes that do not fit the schema."""
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - an extra

        indexes, start = message_indexes(body)
        path = tuple(indexes)
        if path not in self._messages:
            self._messages[path] = self._message(path)
        parse, fields = self._messages[path]
        try:
            message = parse(body[start:])
        except DecodeError as error:
            if "MaxDepth" in str(error):
                raise too_deep("the message") from None
            raise ValueError(str(error)) from None
        found = dict(fields.defaults)
        for name in self._mapped:
            found.pop(name, None)
        for field, value in message.ListFields():
            if field.name in self._mapped and isinstance(value, bytes):
                found[field.name] = value  # which no mapped field can be: the mapping says so
            else:
                found[field.name] = fields.converted(field, value, field.name, 1)
        return found

    def _message(self, path: tuple[int, ...]) -> "tuple[Callable[[bytes], Message], _Fields]":
        from google.protobuf import message_factory  # noqa: PLC0415 - an extra

        types = list(self._file.message_types_by_name.values())
        found: Descriptor | None = None
        for index in path:
            if not 0 <= index < len(types):
                raise ValueError(f"the message indexes {list(path)} name no message of the schema")
            found = types[index]
            types = list(found.nested_types)
        if found is None:
            raise ValueError("it names no message")
        return message_factory.GetMessageClass(found).FromString, self._of(found)

    def _of(self, descriptor: "Descriptor") -> "_Fields":
        fields = self._fields.get(descriptor.full_name)
        if fields is None:
            fields = self._fields[descriptor.full_name] = _Fields(descriptor, self._of)
        return fields


class _Fields:
    """How the fields of one message become those of JSON."""

    def __init__(self, descriptor: "Descriptor", of: "Callable[[Descriptor], _Fields]") -> None:
        self._of = of
        self._converts: dict[int, Convert] = {}
        self.defaults: Mapping[str, Any] = {
            field.name: _default(field)
            for field in descriptor.fields
            if not field.has_presence and not field.is_repeated
        }
        """Of fields that are not written where they have them: 0, false and "" are values like others."""

    def converted(self, field: "FieldDescriptor", value: Any, top: str, depth: int) -> Any:
        convert = self._converts.get(field.number)
        if convert is None:
            convert = self._converts[field.number] = self._conversion(field)
        return convert(value, top, depth)

    def message(self, message: "Message", top: str, depth: int) -> dict[str, Any]:
        """The fields of a message inside another one. Raises RecordRejected."""
        if depth + 1 > MAX_DEPTH:
            raise too_deep(f"the field {quoted(top)}")
        found = dict(self.defaults)
        for field, value in message.ListFields():
            found[field.name] = self.converted(field, value, top, depth + 1)
        return found

    def _conversion(self, field: "FieldDescriptor") -> Convert:
        if not field.is_repeated:
            return self._single(field)
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            member = self._single(entry.fields_by_name["value"])
            return lambda value, top, depth: {_map_key(key): member(value[key], top, depth + 1) for key in value}
        single = self._single(field)
        return lambda value, top, depth: [single(member, top, depth + 1) for member in value]

    def _single(self, field: "FieldDescriptor") -> Convert:
        if field.message_type is not None:
            return self._submessage(field.message_type)
        if field.enum_type is not None:
            names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
            return lambda value, _top, _depth: names.get(value, value)
        if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
            return lambda value, top, _depth: finite(top, value)
        if field.type == field.TYPE_BYTES:
            return lambda value, _top, _depth: base64(value)
        return lambda value, _top, _depth: value

    def _submessage(self, descriptor: "Descriptor") -> Convert:
        name = descriptor.full_name
        if name in _OWN_TEXT:
            return _own_text
        if name in _WRAPPERS:
            inside = self._single(descriptor.fields_by_name["value"])
            return lambda value, top, depth: inside(value.value, top, depth)
        if name in _STRUCTS:
            return _struct
        return lambda value, top, depth: self._of(descriptor).message(value, top, depth)


def _own_text(value: Any, top: str, _depth: int) -> str:
    try:
        return str(value.ToJsonString())
    except ValueError as error:
        message = f"the field {quoted(top)} cannot be written as a text: {error}"
        raise RecordRejected(Reason.INVALID_BODY, message) from None


def _struct(value: Any, top: str, depth: int) -> Any:
    from google.protobuf.json_format import MessageToDict, SerializeToJsonError  # noqa: PLC0415 - an extra

    try:
        return plain(top, MessageToDict(value), depth)
    except (SerializeToJsonError, ValueError) as error:
        message = f"the field {quoted(top)} cannot be written as JSON: {error}"
        raise RecordRejected(Reason.INVALID_BODY, message) from None


def _map_key(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _default(field: "FieldDescriptor") -> Any:
    if field.enum_type is not None:
        return field.enum_type.values_by_number[field.default_value].name
    return base64(field.default_value) if field.type == field.TYPE_BYTES else field.default_value


def _add(pool: "DescriptorPool", name: str, text: str, added: set[str]) -> None:
    """Enter a file under the name it is imported by, and the files behind it that no registry has."""
    from google.protobuf import descriptor_pb2  # noqa: PLC0415 - an extra

    if name in added:
        return
    added.add(name)
    file = descriptor_pb2.FileDescriptorProto.FromString(b64decode(text, validate=True))
    for imported in file.dependency:
        if imported not in added and imported in (known := _known_files()):
            _add_known(pool, imported, known, added)
    file.name = name
    pool.AddSerializedFile(file.SerializeToString())


def _add_known(pool: "DescriptorPool", name: str, known: Mapping[str, bytes], added: set[str]) -> None:
    from google.protobuf import descriptor_pb2  # noqa: PLC0415 - an extra

    if name in added:
        return
    added.add(name)
    for imported in descriptor_pb2.FileDescriptorProto.FromString(known[name]).dependency:
        _add_known(pool, imported, known, added)
    pool.AddSerializedFile(known[name])


def _known_files() -> Mapping[str, bytes]:
    """Files that every user of Protobuf, or of Confluent's registry, imports and that nobody registers."""
    from google.protobuf import (  # noqa: PLC0415 - an extra
        any_pb2,
        api_pb2,
        descriptor_pb2,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        source_context_pb2,
        struct_pb2,
        timestamp_pb2,
        type_pb2,
        wrappers_pb2,
    )

    modules = (
        any_pb2, api_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, source_context_pb2, struct_pb2,
        timestamp_pb2, type_pb2, wrappers_pb2,
    )  # fmt: skip
    files = {module.DESCRIPTOR.name: module.DESCRIPTOR.serialized_pb for module in modules}
    # Options of rules and tags, which change no value. Without their declaration they are unknown fields.
    meta = descriptor_pb2.FileDescriptorProto(name="confluent/meta.proto", syntax="proto3")
    files[meta.name] = meta.SerializeToString()
    return files
