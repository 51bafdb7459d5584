"""The package's public names, which are imported without torch until one needs it."""

import os
import subprocess
import sys

import pytest

import pipeline.embedding


def test_importing_the_room_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, pipeline.embedding, pipeline.chunking; print({'torch', 'transformers'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert ran.stdout.strip() == "set()"


def test_every_public_name_is_there() -> None:
    for name in pipeline.embedding.__all__:
        assert getattr(pipeline.embedding, name).__name__ == name


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'anything_else'"):
        pipeline.embedding.anything_else  # noqa: B018
