"""The settings of the schema registry."""

from datetime import timedelta
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from consumers.config.access import BEARER, LOOPBACK
from consumers.config.section import Section
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
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("must be an http or https address")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must have no user, query or fragment; secrets belong into user and password, or token")
        return value

    @field_validator("token")
    @classmethod
    def _fits_a_header(cls, token: Secret | None) -> Secret | None:
        if token is not None and not BEARER.fullmatch(token.get_secret_value()):
            raise ValueError("has characters that no token has")
        return token

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.url is None and (self.user or self.password or self.token or self.ca_file):
            raise ValueError("url is missing")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together")
        if self.user is not None and self.token is not None:
            raise ValueError("user and token exclude each other")
        if self.url is not None and (self.password or self.token):
            parts = urlsplit(self.url)
            if parts.scheme != "https" and parts.hostname not in LOOPBACK:
                raise ValueError("url must be an https address where there is a secret (http on this machine only)")
        return self
