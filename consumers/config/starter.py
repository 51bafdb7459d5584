"""The first configuration file of a user, and the JSON Schema by which editors check it."""

import json
import re
from datetime import timedelta
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema

from consumers.config.settings import Settings
from pipeline.timestamps import format_duration

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*[A-Za-z0-9]", re.ASCII)
_TEMPLATE = """\
# yaml-language-server: $schema={schema}
# What is left out has its default: `milvus-stream config show` prints everything in force.
# ${{NAME}} is replaced by the environment; a secret may also be file:/path.

kafka:
  bootstrap_servers: {kafka}
  topics: [{topic}]
  group_id: {group}  # one group fills one collection
  dead_letter_topic: {dead_letters}  # takes records that can never be stored; created at the start
  # start_from: earliest  # earliest, latest or a time; only for a group's very first start
  # security_protocol: SASL_SSL  # these and every other option of kafka-python are passed on
  # sasl_mechanism: SCRAM-SHA-512
  # sasl_plain_username: milvus-stream
  # sasl_plain_password: ${{KAFKA_PASSWORD}}

record:
  id_field: id  # where it is missing, the record's key
  text_field: text  # what is embedded
  time_field: event_time  # where it is missing, Kafka's timestamp
  # version_field: version  # the greater one wins, whatever the order of the records

milvus:
  uri: {milvus}
  collection: {collection}  # created at the start
  # token: ${{MILVUS_TOKEN}}  # user:password or an API key

partitioning:
  by: day  # hour, day, week, month, none

embedding:
  model: sentence-transformers/all-MiniLM-L6-v2  # a folder, or a hub id whose files are on this machine

# mode: upsert  # or append: every record is a document of its own
"""


def starter_yaml(kafka: str, milvus: str, topic: str, collection: str, schema: str) -> str:
    """A commented configuration file; `schema`: where an editor finds the JSON Schema of it."""
    return _TEMPLATE.format(
        schema=schema,
        kafka=_word(kafka),
        milvus=_word(milvus),
        topic=_word(topic),
        collection=_word(collection),
        group=_word(topic if topic != "documents" else "milvus-stream"),
        dead_letters=_word(f"{topic}.dlq"),
    )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration file: every setting with its type, default and meaning."""
    schema = Settings.model_json_schema(schema_generator=_Defaults)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": "milvus-stream.yaml"}


class _Defaults(GenerateJsonSchema):
    """Defaults as one writes them in the file: 30s, not PT30S."""

    def encode_default(self, dft: Any) -> Any:
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def _word(text: str) -> str:
    """A text as YAML: as it is where YAML reads it as that text, else in quotes."""
    return text if _PLAIN.fullmatch(text) and yaml.safe_load(f"[{text}]") == [text] else json.dumps(text)
