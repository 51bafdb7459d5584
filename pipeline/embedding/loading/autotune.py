"""Autotuning: the batch size and parallelism that are fastest on this machine, found by short trials."""

import time
from collections.abc import Callable

import numpy as np

from pipeline.embedding.embedder import ModelStamp
from pipeline.embedding.engine.batch_runner import BatchPlan, BatchRunner
from pipeline.embedding.engine.tokenizer import ModelTokenizer

CPU_BUDGET = 1024
"""Tokens of one CPU pass unless another number is measured to be faster: larger passes do not fit the cache."""
GPU_BUDGET = 16_384
"""Tokens of the first GPU trial: smaller passes do not hide the kernel launches."""
_MAX_CPU_TOKENS = 4096
"""Tokens of all concurrent CPU passes: with more, a small model's activations would take over 300 MB."""
_MAX_GPU_BUDGET = 1_048_576
_GPU_PASSES = 4
"""Passes of one GPU trial: a single pass would include transfers that others hide."""
_CPU_SECONDS = 1.5
_MIN_GAIN = 1.05
"""Speed-up needed to replace a plan that is known to be good: short trials scatter."""
_MIN_GAIN_ONE_WORKER = 1.15
"""The same for a single pass with many threads, which waits at every barrier for a core that a neighbour took."""
_TRIAL_TOKENS = 64
"""Length of the trial texts; divides every budget."""

Rate = Callable[[BatchPlan], float | None]
"""Measures a plan: tokens per second; None where memory does not hold it."""


def tune_cpu(rate: Rate, cores: int, budget: int | None, clock: Callable[[], float] = time.perf_counter) -> BatchPlan:
    """The fastest plan for `cores`, with the given token budget or the best one; takes at most about two seconds.

    Concurrent one-thread passes wait for nobody, and small batches stay in the cache. A single pass with all threads is
    preferred only where it is clearly faster.
    """
    best = BatchPlan(budget or CPU_BUDGET, cores, 1)
    end = clock() + _CPU_SECONDS
    rate(BatchPlan(_TRIAL_TOKENS, cores, 1))  # the first pass includes one-time initialisation
    best_rate = rate(best) or 0.0

    def is_better(plan: BatchPlan, min_gain: float) -> bool:
        nonlocal best, best_rate
        seconds = plan.token_budget * cores / best_rate if best_rate else 0.0
        if clock() + seconds > end:
            return False
        plan_rate = rate(plan) or 0.0
        if plan_rate > best_rate * min_gain:  # the best plan's trial may have been disturbed: repeat it
            best_rate = max(best_rate, rate(best) or 0.0)
        if plan_rate <= best_rate * min_gain:
            return False
        best, best_rate = plan, plan_rate
        return True

    if budget is None:
        size = CPU_BUDGET
        while 2 * size * cores <= _MAX_CPU_TOKENS and is_better(BatchPlan(size * 2, cores, 1), _MIN_GAIN):
            size *= 2
        if size == CPU_BUDGET:
            is_better(BatchPlan(size // 2, cores, 1), _MIN_GAIN)
    if cores > 1:
        is_better(BatchPlan(best.token_budget, 1, cores), _MIN_GAIN_ONE_WORKER)
    return best


def tune_gpu(rate: Rate, budget: int | None) -> BatchPlan:
    """The given token budget, or the budget doubled until that gains nothing or memory does not hold it."""
    best = BatchPlan(budget or GPU_BUDGET)
    if budget is not None:
        return best
    best_rate = rate(best)
    while best_rate is not None and best.token_budget < _MAX_GPU_BUDGET:
        plan = BatchPlan(best.token_budget * 2)
        plan_rate = rate(plan)
        if plan_rate is None or plan_rate < best_rate * _MIN_GAIN:
            break
        best, best_rate = plan, plan_rate
    return best


def rate_of(
    runner_of: Callable[[BatchPlan], BatchRunner], tokenizer: ModelTokenizer, stamp: ModelStamp, *, gpu: bool = False
) -> Rate:
    """A function that measures a plan by running the model on artificial texts."""
    special_tokens = tokenizer.special_tokens(query=False)
    length = max(1, min(_TRIAL_TOKENS, stamp.max_tokens) - special_tokens.count)
    text = np.resize(tokenizer.tokenize(["what the model may read"])[0].ids, length)

    def rate(plan: BatchPlan) -> float | None:
        runner = runner_of(plan)
        try:
            count = max(1, plan.token_budget // (length + special_tokens.count))
            # Allocates memory and selects kernels, in every thread.
            runner.vectors([text] * (count * plan.workers), special_tokens)
            passes = _GPU_PASSES if gpu else max(plan.workers, plan.threads)
            start = time.perf_counter()
            runner.vectors([text] * (count * passes), special_tokens)
            seconds = time.perf_counter() - start
        finally:
            runner.close()
        return None if runner.ceiling else count * passes * (length + special_tokens.count) / seconds

    return rate
