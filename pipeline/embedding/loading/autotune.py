"""The batch size and the number of threads that are fastest here, by trying them for a moment."""

import time
from collections.abc import Callable

import numpy as np

from pipeline.embedding.embedder import ModelStamp
from pipeline.embedding.engine.batch_runner import BatchPlan, Runner
from pipeline.embedding.engine.device_transfer import Transfer
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.embedding.engine.transformer_embedder import around

CPU_BUDGET = 1024
"""Tokens of one pass on a CPU unless another number is measured to be faster: larger ones leave the cache."""
GPU_BUDGET = 16_384
"""Where the search begins on a GPU: smaller ones do not hide the launches."""
_CPU_TOKENS_AT_ONCE = 4096
"""Of all passes together; beyond it larger ones are not tried: a small model's activations would take over 300 MB."""
_MAX_GPU_BUDGET = 1_048_576
_GPU_PASSES = 4
"""Passes of one trial: alone, a pass would show the ways there and back that others hide."""
_CPU_SECONDS = 1.5
_CLEARLY = 1.05
"""How many times faster a plan must be to be preferred to one known to be good: short trials scatter."""
_CLEARLY_TOGETHER = 1.15
"""The same for one pass with many threads, which a neighbour that takes a core stops at every barrier."""
_TEXT_TOKENS = 64
"""Length of the texts tried, which divides every budget."""

Rate = Callable[[BatchPlan], float | None]
"""Tokens a second with a plan; None where memory does not hold it."""


def tune_cpu(rate: Rate, cores: int, budget: int | None, clock: Callable[[], float] = time.perf_counter) -> BatchPlan:
    """The fastest plan for `cores`, with the token budget given or the best one; takes at most about two seconds.

    Side by side, one-thread passes wait for nobody and small batches stay in the cache; one pass with all threads is
    taken where it is clearly faster.
    """
    best = BatchPlan(budget or CPU_BUDGET, cores, 1)
    end = clock() + _CPU_SECONDS
    rate(BatchPlan(_TEXT_TOKENS, cores, 1))  # the first pass sets up what all others use
    best_rate = rate(best) or 0.0

    def is_better(plan: BatchPlan, margin: float) -> bool:
        nonlocal best, best_rate
        seconds = plan.token_budget * cores / best_rate if best_rate else 0.0
        if clock() + seconds > end:
            return False
        found = rate(plan) or 0.0
        if found > best_rate * margin:  # or something else took a core while the best was tried
            best_rate = max(best_rate, rate(best) or 0.0)
        if found <= best_rate * margin:
            return False
        best, best_rate = plan, found
        return True

    if budget is None:
        size = CPU_BUDGET
        while 2 * size * cores <= _CPU_TOKENS_AT_ONCE and is_better(BatchPlan(size * 2, cores, 1), _CLEARLY):
            size *= 2
        if size == CPU_BUDGET:
            is_better(BatchPlan(size // 2, cores, 1), _CLEARLY)
    if cores > 1:
        is_better(BatchPlan(best.token_budget, 1, cores), _CLEARLY_TOGETHER)
    return best


def tune_gpu(rate: Rate, budget: int | None) -> BatchPlan:
    """The budget given, or doubled until that gains nothing or memory does not hold it."""
    best = BatchPlan(budget or GPU_BUDGET)
    if budget is not None:
        return best
    best_rate = rate(best)
    while best_rate is not None and best.token_budget < _MAX_GPU_BUDGET:
        plan = BatchPlan(best.token_budget * 2)
        found = rate(plan)
        if found is None or found < best_rate * _CLEARLY:
            break
        best, best_rate = plan, found
    return best


def rate_of(forward: Forward, transfer: Transfer, tokenizer: ModelTokenizer, stamp: ModelStamp, *, gpu: bool) -> Rate:
    """Measures a plan by running the model with it on made-up texts."""
    kind = around(tokenizer, query=False)
    length = max(1, min(_TEXT_TOKENS, stamp.max_tokens) - kind.tokens)
    text = np.resize(tokenizer.tokenize(["what the model may read"])[0].ids, length)

    def rate(plan: BatchPlan) -> float | None:
        runner = Runner(forward, transfer, plan, dimension=stamp.dimension)
        try:
            count = max(1, plan.token_budget // (length + kind.tokens))
            if gpu:
                runner.vectors([text] * count, kind)  # memory is claimed and kernels are chosen
            passes = _GPU_PASSES if gpu else max(plan.workers, plan.threads)
            start = time.perf_counter()
            runner.vectors([text] * (count * passes), kind)
            seconds = time.perf_counter() - start
        finally:
            runner.close()
        return None if runner.ceiling else count * passes * (length + kind.tokens) / seconds

    return rate
