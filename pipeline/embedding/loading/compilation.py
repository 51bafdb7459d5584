"""Machine code of a model: a few percent faster, for half a minute at every start."""

import sys
import time

import numpy as np
import structlog
import torch
from torch._inductor import config as inductor

from pipeline.embedding.engine.batch_runner import BatchPlan
from pipeline.embedding.engine.device_transfer import Transfer
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.embedding.engine.transformer_embedder import around
from pipeline.errors import UsageError

_BATCHES = ((3, 5, 8), (4,))
"""Tokens of the texts in the passes that compile: for padded batches torch makes code apart where there is one row."""

log = structlog.get_logger(__name__)


def compile_model(forward: Forward, transfer: Transfer, tokenizer: ModelTokenizer, plan: BatchPlan) -> None:
    """Compile the model for passes with as many threads as planned; raises `UsageError` where torch cannot."""
    start = time.perf_counter()
    threads, recursion = torch.get_num_threads(), sys.getrecursionlimit()
    forward.compile()
    documents = around(tokenizer, query=False)
    batches = [[np.ones(length, dtype=np.int32) for length in lengths] for lengths in _BATCHES]
    # The code holds the number of threads; with another one torch would compile anew.
    torch.set_num_threads(plan.threads)
    try:
        # Weights are laid out for the processor, which is most of what is gained. Holds in this thread only.
        with inductor.patch(freezing=True):
            for inputs in (forward.inputs(batch, documents) for batch in batches):
                forward(inputs, transfer.upload(inputs.arrays))
    except RuntimeError as error:
        first = next(iter(str(error).splitlines()), "")
        raise UsageError(
            f"embedding.compile is true, but torch cannot compile this model here ({type(error).__name__}: {first}): "
            "install a C++ compiler (g++) if there is none, or set it to false"
        ) from error
    finally:
        torch.set_num_threads(threads)
        sys.setrecursionlimit(recursion)  # torch raises it for the whole process and leaves it so
    log.info("model.compiled", seconds=round(time.perf_counter() - start, 1))
