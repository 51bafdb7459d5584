"""The settings of the reranker."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from consumers.config.section import Section
from consumers.config.servers import bearer, is_private, server_address
from consumers.config.units import Secret


class RerankSection(Section):
    """What orders the best candidates of a search: a model on this machine or an endpoint; without either nothing."""

    model: str | None = Field(
        None,
        min_length=1,
        description="a cross-encoder with one logit, a folder or a hub id whose files are here already; it runs on the "
        "CPU. With `url`: the name of the model there, which shape cohere needs",
    )
    url: str | None = Field(
        None,
        description="address of a server that reranks instead, without the path: it is sent queries and texts of "
        "candidates",
    )
    shape: Literal["tei", "cohere"] = Field(
        "tei", description="what the server answers: POST /rerank of TEI, or POST /v2/rerank of Cohere"
    )
    key: Secret | None = Field(None, description="sent to the server as bearer token; needs https or this machine")
    default: bool = Field(False, description="rerank also searches that do not say `rerank`")

    @field_validator("url")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        return server_address(value, "a secret belongs into key")

    @field_validator("key")
    @classmethod
    def _fits_a_header(cls, key: Secret | None) -> Secret | None:
        return bearer(key, "key or token")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.url is None and (self.key is not None or self.shape != "tei"):
            raise ValueError("key and shape are those of a server, and url is missing")
        if self.url is not None and self.shape == "cohere" and self.model is None:
            raise ValueError("model is missing: shape cohere names the model in every request")
        if self.url is not None and self.key is not None and not is_private(self.url):
            raise ValueError("url must be an https address where there is a key (http on this machine only)")
        if self.default and self.model is None and self.url is None:
            raise ValueError("default needs model or url")
        return self
