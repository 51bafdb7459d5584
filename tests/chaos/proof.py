"""What is kept of a run that did harm: for each harmed document its records, its ledger row, its rows, its batches."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient

from tests.chaos.stage import COLLECTION, TOPIC
from tests.support.oracle.expected import Expected, Version, expected
from tests.support.oracle.observed import read_all, stored_documents, stored_ledger
from tests.support.oracle.stored import Verdict

_SHOWN = 40
"""Documents; more of them tell nothing new."""
_POSITIONS = re.compile(rf"{re.escape(TOPIC)}/(\d+)/(\d+)-(\d+)")


def prove(verdict: Verdict, bootstrap: str, client: MilvusClient, logs: Path) -> str:
    """Everything known of the harmed documents; while the servers still run."""
    wanted = expected(read_all(bootstrap, TOPIC))
    stored, ledger = stored_documents(client, COLLECTION), stored_ledger(client, COLLECTION)
    batches = list(_batches(logs))
    parts = [repr(verdict), *(f"{kind}: {one}" for kind, some in verdict.found.items() for one in some)]
    for doc_id in _harmed(verdict, wanted)[:_SHOWN]:
        versions = wanted.versions.get(doc_id, [])
        parts.append(f"\n=== {doc_id}")
        parts += [
            f"record {each.partition}/{each.offset}: "
            + (
                "delete"
                if each.document is None
                else f"{each.document.event_time}, {len(each.document.text)} characters"
            )
            for each in versions
        ]
        parts.append(f"ledger: {ledger.get(doc_id)}")
        parts += [
            f"{partition}: chunk {row['chunk']} of {row['kafka_partition']}/{row['kafka_offset']}, id {row['id']}"
            for partition, row in stored.documents.get(doc_id, [])
        ]
        parts += _of(batches, {(each.partition, each.offset) for each in versions})
    return "\n".join(parts) + "\n"


def keep(folder: Path, seed: int, proof: str) -> Path:
    """Copy the logs to where they outlast the run, the proof beside them; returns that place."""
    kept = Path.cwd() / ".data" / f"chaos-{seed}-{os.getpid()}"
    kept.mkdir(parents=True, exist_ok=True)
    for each in (*folder.glob("*.log"), *folder.glob("*/server.log")):
        name = each.name if each.parent == folder else f"{each.parent.name}.log"
        shutil.copy(each, kept / name)
    if proof:
        (kept / "harms.txt").write_text(proof)
    return kept


def _told(version: Version) -> str:
    document = version.document
    return "delete" if document is None else f"event time {document.event_time}, {len(document.text)} characters"


def _harmed(verdict: Verdict, wanted: Expected) -> list[str]:
    """The documents named in the verdict; each of its lines begins with one."""
    lines = [one for some in verdict.found.values() for one in some]
    by_length = sorted(wanted.versions, key=len, reverse=True)
    named = (next((doc_id for doc_id in by_length if _begins(line, doc_id)), None) for line in lines)
    return list(dict.fromkeys(doc_id for doc_id in named if doc_id is not None))


def _begins(line: str, doc_id: str) -> bool:
    return line.startswith(doc_id) and line[len(doc_id) :][:1] in ("", ":", ",", " ")


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


def _of(batches: Iterable[tuple[str, dict[str, Any]]], positions: set[tuple[int, int]]) -> Iterator[str]:
    """Those in which one of the records was."""
    for worker, line in batches:
        spans = [tuple(map(int, each)) for each in _POSITIONS.findall(str(line.get("positions")))]
        hit = sorted(
            (partition, offset)
            for partition, first, last in spans
            for number, offset in positions
            if number == partition and first <= offset <= last
        )
        if hit:
            yield f"batch with {', '.join(f'{p}/{o}' for p, o in hit)}: {worker} {json.dumps(line)}"
