"""The base of every section of the settings."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section: unknown keys are errors, values do not change, and defaults are checked like any other value."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
