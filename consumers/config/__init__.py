"""The configuration: settings with their types, and how a process reads them."""

from consumers.config.loading import configuration_file, load_settings, masked_values
from consumers.config.settings import Settings
from consumers.config.starter import json_schema, starter_yaml
from consumers.config.yaml_source import exposed_secrets

__all__ = [
    "Settings",
    "configuration_file",
    "exposed_secrets",
    "json_schema",
    "load_settings",
    "masked_values",
    "starter_yaml",
]
