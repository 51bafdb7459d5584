"""The entry point: from embedding settings to a loaded embedder."""

import structlog

from pipeline.embedding.embedder import Embedder, EmbeddingSettings
from pipeline.embedding.engine.hash_embedder import HashEmbedder
from pipeline.errors import MilvusStreamError, UsageError

log = structlog.get_logger(__name__)


def load_embedder(settings: EmbeddingSettings) -> Embedder:
    """Load the model a setting names; takes seconds, blocks, uses no network.

    Raises `UsageError` if the model is not on this machine, holds code or pickled weights, or cannot run as asked; the
    message says what to do, `MilvusStreamError` if torch itself cannot be loaded.
    """
    if HashEmbedder.is_hash_model(settings.model):
        if settings.dimensions is not None:
            raise UsageError(
                f"embedding.dimensions is {settings.dimensions}, but {settings.model} has its dimension in its name: "
                "leave embedding.dimensions null"
            )
        log.warning(
            "model.none", model=settings.model, what="vectors are digests of the text: nothing is found by meaning"
        )
        return HashEmbedder(settings.model)
    try:
        # torch takes seconds to import; a hash needs none
        from pipeline.embedding.loading.model import load_model  # noqa: PLC0415
    except (ImportError, OSError, MemoryError) as error:
        raise MilvusStreamError(
            f"the model's libraries cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}. Either "
            "memory is short (torch takes 3 GiB of address space; see `ulimit -v` and the container's limit), or the "
            "installation is not whole: install milvus-stream again"
        ) from error
    return load_model(settings)
