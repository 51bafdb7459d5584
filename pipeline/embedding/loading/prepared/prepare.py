"""Preparation of a model: by a process of its own where it is not prepared yet."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import structlog

from pipeline.embedding.loading.prepared.folder import (
    PreparedModel,
    PreparedModels,
    Refused,
    Request,
    read_refusal,
)
from pipeline.errors import MilvusStreamError

_SHOWN = 500
_GROWTH = 2
"""The converted weights are in float32, those of the model perhaps in 16 bits."""
_BESIDE_WEIGHTS = 64 * 2**20

log = structlog.get_logger(__name__)


def prepared(models: PreparedModels, request: Request) -> PreparedModel:
    """The prepared model; converts where there is none, which takes from seconds to minutes.

    Raises `Refused` if it cannot be converted, UsageError if the folder cannot be written to, MilvusStreamError if the
    conversion fails otherwise.
    """
    if (found := models.find(request)) is not None:
        return found
    with models.locked(request):
        if (found := models.find(request)) is not None:
            return found
        start = time.monotonic()
        log.info("model.preparing", model=request.name, precision=request.precision, what="once for this model")
        with models.making(request) as folder:
            _check_space(Path(request.folder), folder)
            _convert(replace(request, destination=str(folder)))
            reason = read_refusal(folder)
        if reason is not None:
            raise Refused(reason)
        found = models.find(request)
        if found is None:
            raise MilvusStreamError(f"the model prepared in {models.folder} was changed while it was written")
        seconds = round(time.monotonic() - start, 1)
        log.info("model.prepared", model=request.name, folder=str(found.folder), seconds=seconds)
        return found


def _check_space(source: Path, destination: Path) -> None:
    """Raise OSError where the converted model might not fit; half-written, it would look like one that cannot be."""
    weights = sum(path.stat().st_size for path in source.rglob("*.safetensors"))
    needed = _GROWTH * weights + _BESIDE_WEIGHTS
    free = shutil.disk_usage(destination).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free // 2**20} MiB are free, and preparing takes up to {needed // 2**20} MiB")


def _convert(request: Request) -> None:
    as_json = json.dumps(asdict(request))
    command = [sys.executable, "-m", "pipeline.embedding.loading.prepared.conversion", as_json]
    # The conversion's own messages are of no use to anybody unless it fails.
    done = subprocess.run(  # noqa: S603 - this program itself
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if done.returncode == 0:
        return
    output = " ".join(done.stderr.split())[-_SHOWN:]
    otherwise = "embedding.engine to torch" if request.kind == "embedding" else "query.rerank.url in place of the model"
    raise MilvusStreamError(
        f"the conversion of {request.name} for OpenVINO ended with status {done.returncode}: {output}. Killed (-9) "
        "means that memory was short: prepare the model on a larger machine with `milvus-stream model prepare`, or set "
        f"{otherwise}"
    )
