"""The settings of who may ask the query worker, and of what the commands that ask one send."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from consumers.config.section import Section
from consumers.config.servers import bearer, is_private
from consumers.config.units import Secret


class OidcSection(Section):
    """An OpenID provider whose tokens are taken; needs the extra `oidc`."""

    issuer: str | None = Field(
        None, min_length=1, description="its address, as in the claim `iss`; https, or http on this machine"
    )
    audience: str | None = Field(None, min_length=1, description="what the claim `aud` must hold")
    tenant_claim: str | None = Field(
        None, min_length=1, description="the claim with the tenant, which a token must have; null: all documents"
    )
    scope_claim: str | None = Field(
        None,
        min_length=1,
        description="the claim that lists the scopes `search` and `admin`; null: every token may search",
    )

    @field_validator("issuer")
    @classmethod
    def _nobody_changes_its_keys_on_the_way(cls, value: str | None) -> str | None:
        if value is not None and not (urlsplit(value).hostname and is_private(value)):
            raise ValueError("must be an https address (http on this machine only)")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.issuer is None and (self.audience or self.tenant_claim or self.scope_claim):
            raise ValueError("issuer is missing")
        if self.issuer is not None and self.audience is None:
            raise ValueError("audience is missing: without it a token for any other service would do")
        return self


class AuthSection(Section):
    """Who may ask the query worker: whoever has a key or a token; without either, this machine only."""

    mode: Literal["auto", "none"] = Field(
        "auto",
        description="auto: keys or tokens where they are configured, else only this machine may ask; none: whoever "
        "reaches the port may search everything",
    )
    keys_file: Path | None = Field(
        None, description="API keys, as `milvus-stream keys create` writes them; read again when it changes"
    )
    oidc: OidcSection = OidcSection()

    @model_validator(mode="after")
    def _none_means_none(self) -> Self:
        if self.mode == "none" and (self.keys_file is not None or self.oidc.issuer is not None):
            raise ValueError("mode none lets everybody in, so keys_file and oidc must not be set")
        return self


class ClientSection(Section):
    """The commands that ask a query worker, those with `--url`."""

    api_key: Secret | None = Field(None, description="API key or token for the query worker; null: none is sent")

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: Secret | None) -> Secret | None:
        return bearer(key, "key or token")
