"""The section `registry`: what belongs together, and that no secret leaves in clear."""

from typing import Any

import pytest
from pydantic import ValidationError

from consumers.config.registry import RegistrySection


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"url": "http://registry:8081"},
        {"url": "https://registry/ccompat", "user": "u", "password": "p", "ca_file": "ca.pem"},
        {"url": "http://localhost:8081", "token": "abc"},
    ],
)
def test_a_section_that_is_whole(values: dict[str, Any]) -> None:
    assert RegistrySection.model_validate(values).url == values.get("url")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"user": "u", "password": "p"}, "url is missing"),
        ({"url": "registry:8081"}, "must be an http or https address"),
        ({"url": "https://u:p@registry"}, "must have no user"),
        ({"url": "https://registry", "user": "u"}, "belong together"),
        ({"url": "https://registry", "password": "p"}, "belong together"),
        ({"url": "https://registry", "user": "u", "password": "p", "token": "t"}, "exclude each other"),
        ({"url": "http://registry", "token": "t"}, "https address where there is a secret"),
        ({"url": "https://registry", "token": "a\nb"}, "characters that no token has"),
        ({"url": "https://registry", "user": "a:b", "password": "p"}, "pattern"),
        ({"url": "https://registry", "timeout": "0s"}, "greater than"),
    ],
)
def test_a_section_that_is_not(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RegistrySection.model_validate(values)
