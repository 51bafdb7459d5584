"""The entry point: from embedding settings to a loaded embedder, by the engine that fits."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from pipeline.embedding.embedder import Embedder, EmbeddingSettings
from pipeline.embedding.engine.hash_embedder import HashEmbedder
from pipeline.embedding.kernels.processor import may_have_gpu
from pipeline.embedding.loading.model_files import check_model, digest_model, digest_source, find_model
from pipeline.embedding.loading.prepared.folder import PreparedModel, PreparedModels, Refused, Request
from pipeline.embedding.loading.prepared.manifest import Precision
from pipeline.embedding.loading.prepared.prepare import prepared
from pipeline.errors import MilvusStreamError, UsageError

if TYPE_CHECKING:
    import torch

log = structlog.get_logger(__name__)


def load_embedder(settings: EmbeddingSettings, *, queries_first: bool = False) -> Embedder:
    """Load the model a setting names; takes up to seconds, where it is prepared first up to minutes; uses no network.

    `queries_first`: what is loaded now is what queries need, and the rest with the first document; else the reverse.
    Raises `UsageError` if the model is not on this machine, holds code or pickled weights, or cannot run as configured;
    the message says what to do. `MilvusStreamError` if the engine itself cannot be loaded.

    1. `hash:N` needs no engine.
    2. A GPU, or `engine: torch`: torch.
    3. A CPU: OpenVINO, with the model prepared once.
    4. A model that OpenVINO cannot run: torch on the CPU, unless `engine: openvino`.
    """
    if HashEmbedder.is_hash_model(settings.model):
        return _hash_embedder(settings)
    if (device := _torch_device(settings)) is not None:
        return _with_torch(settings, device)
    try:
        from pipeline.embedding.loading.openvino_model import load_prepared  # noqa: PLC0415 - a hash needs none
    except (ImportError, OSError, MemoryError) as error:
        raise _unusable("OpenVINO", error) from error
    try:
        model = prepared_model(settings)
    except Refused as refused:
        if settings.engine == "openvino" or settings.dtype == "int8":
            raise UsageError(f"embedding.model: OpenVINO cannot run {settings.model}: {refused}") from refused
        log.warning("model.not_prepared", model=settings.model, why=str(refused), what="torch runs it, which is slower")
        return _with_torch(settings, "cpu")
    return load_prepared(model, settings, queries_first=queries_first)


def prepared_model(settings: EmbeddingSettings) -> PreparedModel:
    """The model prepared for OpenVINO; prepares it where it is not. Raises as `prepared` and `find_model` do."""
    models = PreparedModels(settings.models_folder)
    try:
        folder = find_model(settings.model)
    except UsageError:
        if (model := models.named(settings.model, _precision(settings))) is not None:
            return model
        raise
    check_model(folder)
    return prepared(models, preparation_request(settings, folder))


def preparation_request(settings: EmbeddingSettings, folder: Path) -> Request:
    """What preparing the model in a checked folder takes."""
    weights = digest = digest_model(folder)
    precision, calibration = _precision(settings), None
    if precision == "int8":
        calibration = None if settings.calibration is None else str(settings.calibration.expanduser())
        digest = hashlib.sha256(f"{weights} int8 {_calibration_digest(calibration)}".encode()).hexdigest()
    return Request(settings.model, str(folder), digest, digest_source(folder, weights), precision, calibration)


def _precision(settings: EmbeddingSettings) -> Precision:
    return "int8" if settings.dtype == "int8" else "float"


def _calibration_digest(path: str | None) -> str:
    if path is None:
        return "documentation"
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"embedding.calibration: the texts cannot be read: {error}") from error


def _hash_embedder(settings: EmbeddingSettings) -> HashEmbedder:
    if settings.dimensions is not None:
        raise UsageError(
            f"embedding.dimensions is {settings.dimensions}, but {settings.model} has its dimension in its name: "
            "leave embedding.dimensions null"
        )
    log.warning("model.none", model=settings.model, what="vectors are digests of the text: nothing is found by meaning")
    return HashEmbedder(settings.model)


def _torch_device(settings: EmbeddingSettings) -> str | None:
    """The device on which torch runs the model; None: OpenVINO runs it on the CPU. Imports torch only near a GPU."""
    if settings.device == "cpu" or (
        settings.device == "auto" and (settings.engine == "openvino" or not may_have_gpu())
    ):
        on_gpu = False
    else:
        on_gpu = _resolve(settings.device).type == "cuda"
    if not on_gpu:
        half = settings.dtype == "float16" and settings.engine == "auto"
        return "cpu" if settings.engine == "torch" or half else None
    if settings.engine == "openvino":
        raise UsageError(
            f"embedding.engine is openvino, which runs on a CPU, but embedding.device is {settings.device}: write auto "
            "for one of the two"
        )
    return settings.device


def _resolve(device: str) -> "torch.device":
    try:
        from pipeline.embedding.kernels.device import resolve_device  # noqa: PLC0415 - imports torch
    except (ImportError, OSError, MemoryError) as error:
        raise _unusable("torch", error) from error
    return resolve_device(device)


def _with_torch(settings: EmbeddingSettings, device: str) -> Embedder:
    if settings.dtype == "int8":
        raise UsageError("embedding.dtype is int8, which only OpenVINO on a CPU runs: write auto")
    folder = find_model(settings.model)
    check_model(folder)
    try:
        # torch takes seconds to import
        from pipeline.embedding.loading.torch_model import load_with_torch  # noqa: PLC0415
    except (ImportError, OSError, MemoryError) as error:
        raise _unusable("torch", error) from error
    return load_with_torch(folder, settings, _resolve(device))


def _unusable(library: str, error: BaseException) -> MilvusStreamError:
    return MilvusStreamError(
        f"{library}, which runs the model, cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}. "
        "Either memory is short (torch takes 3 GiB of address space; see `ulimit -v` and the container's limit), or "
        "the installation is not whole: install milvus-stream again"
    )
