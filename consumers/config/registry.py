"""The settings of the schema registry."""

from datetime import timedelta
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from consumers.config.section import Section
from consumers.config.servers import bearer, is_private, server_address
from consumers.config.units import Duration, Secret


class RegistrySection(Section):
    """The schema registry that gives the schemas of Avro, Protobuf and JSON Schema; needs the extra `registry`."""

    url: str | None = Field(None, description="its address; null: there is none")
    user: str | None = Field(
        None, min_length=1, pattern="^[^:]*$", description="for basic authentication, beside `password`"
    )
    password: Secret | None = Field(None, description="of `user`; needs https or this machine")
    token: Secret | None = Field(
        None, description="bearer token, instead of user and password; needs https or this machine"
    )
    ca_file: Path | None = Field(
        None, description="certificates in PEM that are trusted besides those of the system, for an https address"
    )
    timeout: Duration = Field(timedelta(seconds=10), gt=timedelta(0), description="of one request, as a whole")

    @field_validator("url")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        return server_address(value, "secrets belong into user and password, or token")

    @field_validator("token")
    @classmethod
    def _fits_a_header(cls, token: Secret | None) -> Secret | None:
        return bearer(token, "token")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.url is None and (self.user or self.password or self.token or self.ca_file):
            raise ValueError("url is missing")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together")
        if self.user is not None and self.token is not None:
            raise ValueError("user and token exclude each other")
        if self.url is not None and (self.password or self.token) and not is_private(self.url):
            raise ValueError("url must be an https address where there is a secret (http on this machine only)")
        return self
