"""From chunks to vectors: loading a model, packing its input, running it.

torch is imported when a model is loaded, not with this package.
"""

from pipeline.embedding.embedder import Embedder, EmbeddingSettings, Execution, ModelStamp
from pipeline.embedding.hash_embedder import HashEmbedder
from pipeline.embedding.loading.load import load_embedder
from pipeline.query.query_batcher import QueryBatcher

__all__ = ["Embedder", "EmbeddingSettings", "Execution", "HashEmbedder", "ModelStamp", "QueryBatcher", "load_embedder"]
