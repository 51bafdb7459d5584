"""The parts with Kafka and Milvus, which `make bench` measures too: the real model end to end, and no model at all."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from tests.bench import drain, hash_drain
from tests.bench.embedding.place import Place
from tests.bench.embedding.rows import Row
from tests.bench.report import Target
from tests.bench.stage import Stage, stage


@contextmanager
def _stage(place: Place, *, model: bool) -> Iterator[Stage]:
    folder = place.folder / ("drain" if model else "hash")
    folder.mkdir()
    with stage(os.environ.get("KAFKA_BOOTSTRAP"), os.environ.get("MILVUS_URI"), folder, model=model) as made:
        yield made


def drain_part(place: Place, out: Console, documents: int, rounds: int) -> tuple[Mapping[str, Any], list[Row]]:
    """The worker with the real model against its own engine and against the naive loop."""
    with _stage(place, model=True) as made:
        assert made.model is not None
        summary = drain.summarize(drain.measure(made, documents, rounds))
        # Bf16 that is slower than float32 is none here: the targets of such a machine are those without it.
        machine = {**place.machine, "model": made.model, "native_bf16": place.machine["usable_bf16"]}
    drain.show(out, summary, machine["model"]["dtype"])
    by_cpu = "end to end as a share of the bare engine's rate by the worker's processor time"
    told = [Row("drain", f"{by_cpu}, {name}", summary[name]["share_of_bare_engine_cpu"]) for name in drain.SETS]
    return summary, [*(_row(target, summary) for target in drain.targets(summary, machine)), *told]


def hash_part(place: Place, out: Console, records: int, rounds: int) -> tuple[Mapping[str, Any], list[Row]]:
    """The worker without a model, one and two of them in a group."""
    with _stage(place, model=False) as made:
        found = hash_drain.measure_two(made, records, rounds)
    summary = hash_drain.summarize_two(found, place.machine["cores"])
    hash_drain.show_two(out, summary)
    enough = place.machine["cores"] >= hash_drain.WANTED_CORES
    one, gain = (float(hash_drain.WANTED_PER_S), hash_drain.WANTED_GAIN) if enough else (None, None)
    fewer = "" if enough else f"; the target is one for {hash_drain.WANTED_CORES} cores"
    limits = summary["limits"]
    told = f"rounds {summary['one_rounds']}; limit: {limits['one']}{fewer}"
    return summary, [
        Row("hash", "records/s of one worker, append", summary["one"], one, note=told),
        Row("hash", "two workers / one", summary["gain"], gain, note=f"limit of two: {limits['two']}{fewer}"),
    ]


def _row(target: Target, summary: Mapping[str, Any]) -> Row:
    note = ""
    if not target.reached:
        note = "cores busy in the last round: " + "; ".join(
            f"{name} {entry['cores']}" for name, entry in summary.items()
        )
    return Row("drain", target.name, target.value, target.wanted, target.at_most, note)
