"""Compilation of a model with torch.compile: a few percent faster, for half a minute at every start."""

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
from pipeline.errors import UsageError

_BATCHES = ((3, 5, 8), (4,))
"""Text lengths of the compiling passes, in tokens: torch compiles padded batches of one row separately."""

log = structlog.get_logger(__name__)


def compile_model(forward: Forward, transfer: Transfer, tokenizer: ModelTokenizer, plan: BatchPlan) -> None:
    """Compile the model for the planned number of threads; raises `UsageError` where torch cannot."""
    start = time.perf_counter()
    threads, recursion_limit = torch.get_num_threads(), sys.getrecursionlimit()
    forward.compile()
    special_tokens = tokenizer.special_tokens(query=False)
    batches = [[np.ones(length, dtype=np.int32) for length in lengths] for lengths in _BATCHES]
    # The compiled code is valid for this number of threads; with another one torch would compile again.
    torch.set_num_threads(plan.threads)
    try:
        # Freezing packs the weights, which is most of the gain. The patch holds in this thread only.
        with inductor.patch(freezing=True):
            for inputs in (forward.inputs(batch, special_tokens) for batch in batches):
                forward(inputs, transfer.upload(inputs.arrays))
    except RuntimeError as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise UsageError(
            f"embedding.compile is true, but torch cannot compile this model here ({type(error).__name__}: "
            f"{first_line}): install a C++ compiler (g++) if there is none, or set it to false"
        ) from error
    finally:
        torch.set_num_threads(threads)
        sys.setrecursionlimit(recursion_limit)  # torch raises it for the whole process and does not restore it
    log.info("model.compiled", seconds=round(time.perf_counter() - start, 1))
