"""What is kept of a run that did harm: for each harmed document its records, its ledger row, its rows, its batches."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient

from tests.support.oracle.contract import Scope
from tests.support.oracle.expected import Expected, History, Version
from tests.support.oracle.observed import Place, stored_documents, stored_ledger
from tests.support.oracle.stored import read_scope
from tests.support.oracle.verdict import Verdict, is_about

_SHOWN = 40
"""Documents; more of them tell nothing new."""
_POSITIONS = re.compile(r"([\w.]+)/(\d+)/(\d+)-(\d+)")


def prove(verdict: Verdict, scopes: Sequence[Scope], client: MilvusClient, logs: Path) -> str:
    """Everything known of the harmed documents; while the servers still run."""
    parts = [repr(verdict), *(f"{kind}: {one}" for kind, some in verdict.found.items() for one in some)]
    batches = list(_batches(logs))
    for scope in scopes:
        wanted = read_scope(scope)
        stored = stored_documents(client, scope.collection, append=scope.contract.append)
        ledger = {} if scope.contract.append else stored_ledger(client, scope.collection)
        for name in _harmed(verdict, wanted)[:_SHOWN]:
            versions = wanted.versions.get(name, History())
            parts.append(f"\n=== {scope.collection}: {name}")
            parts += [_described(each) for each in versions]
            parts.append(f"ledger: {ledger.get(name)}")
            parts += [
                f"{partition}: chunk {row['chunk']} of {row['kafka_partition']}/{row['kafka_offset']}, id {row['id']}"
                for partition, row in stored.documents.get(name, [])
            ]
            parts += _of(batches, {each.place for each in versions})
    return "\n".join(parts) + "\n"


def keep(folder: Path, seed: int, proof: str) -> Path:
    """Copy the logs to where they outlast the run, the proof beside them; returns that place."""
    kept = Path.cwd() / ".data" / f"chaos-{seed}-{os.getpid()}"
    kept.mkdir(parents=True, exist_ok=True)
    for each in folder.glob("*.log"):
        shutil.copy(each, kept / each.name)
    if proof:
        (kept / "harms.txt").write_text(proof)
    return kept


def _described(version: Version) -> str:
    document, number = version.document, "" if version.number is None else f", version {version.number}"
    what = "delete" if document is None else f"event time {document.event_time}, {len(document.text)} characters"
    return f"record {'/'.join(map(str, version.place))}: {what}{number}"


def _harmed(verdict: Verdict, wanted: Expected) -> list[str]:
    """The documents named in the verdict; each of its lines begins with one."""
    lines = [one for some in verdict.found.values() for one in some]
    by_length = sorted(wanted.versions, key=len, reverse=True)
    named = (next((doc_id for doc_id in by_length if is_about(line, doc_id)), None) for line in lines)
    return list(dict.fromkeys(doc_id for doc_id in named if doc_id is not None))


def _batches(logs: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Worker and log line of every batch written, oldest first."""
    found = []
    for path in logs.glob("worker-*.log"):
        for line in path.read_text(errors="replace").splitlines():
            if '"batch.written"' in line:
                try:
                    found.append((path.stem, json.loads(line)))
                except ValueError:
                    continue  # cut off by kill -9
    yield from sorted(found, key=lambda each: str(each[1].get("timestamp")))


def _of(batches: Iterable[tuple[str, dict[str, Any]]], places: set[Place]) -> Iterator[str]:
    """Those in which one of the records was."""
    for worker, line in batches:
        found = _POSITIONS.findall(str(line.get("positions")))
        spans = [(topic, int(number), int(first), int(last)) for topic, number, first, last in found]
        hit = sorted(
            (topic, partition, offset)
            for topic, partition, first, last in spans
            for log_topic, number, offset in places
            if (log_topic, number) == (topic, partition) and first <= offset <= last
        )
        if hit:
            yield f"batch with {', '.join('/'.join(map(str, each)) for each in hit)}: {worker} {json.dumps(line)}"
