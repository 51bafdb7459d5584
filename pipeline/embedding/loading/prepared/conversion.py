"""The conversion of a model for OpenVINO: a process of its own, so that torch's memory goes with it.

Run as a module with a request as a JSON object. It fills the destination with a prepared model, or with the reason why
there can be none.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Converters would send usage statistics; without the package they have a stub.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Pooling  # noqa: E402

from pipeline.embedding.engine.batching import SpecialTokens  # noqa: E402
from pipeline.embedding.engine.device_transfer import HostTransfer  # noqa: E402
from pipeline.embedding.engine.forward_pass import Forward  # noqa: E402
from pipeline.embedding.engine.passes import Passes  # noqa: E402
from pipeline.embedding.engine.tokenizer import ModelTokenizer  # noqa: E402
from pipeline.embedding.engine.torch_passes import TorchPasses  # noqa: E402
from pipeline.embedding.loading.checkpoint import (  # noqa: E402
    input_limit,
    load_checkpoint,
    model_tokenizer,
    normalizes,
    pooling_name,
    reference_vectors,
)
from pipeline.embedding.loading.openvino_model import prepared_passes  # noqa: E402
from pipeline.embedding.loading.prepared.converting import compiled_exactly, converted, converter_versions, save  # noqa: E402
from pipeline.embedding.loading.prepared.cross_encoder_conversion import convert_cross_encoder  # noqa: E402
from pipeline.embedding.loading.prepared.folder import Request, write_refusal  # noqa: E402
from pipeline.embedding.loading.prepared.manifest import (  # noqa: E402
    REFERENCE_FILE,
    TOKENIZER_FILE,
    Manifest,
    file_digests,
    write_manifest,
)
from pipeline.embedding.loading.prepared.quantization import quantized  # noqa: E402
from pipeline.embedding.loading.probes import probe_sequences  # noqa: E402
from pipeline.errors import UsageError  # noqa: E402

_MOST_DISTANCE = {"float": 1e-3, "int8": 0.35}
"""Greatest distance of a converted model's vector to torch's in float32, relative to its length.

Rounding stays below 1e-5 in float32. 0.35 is a cosine of 0.94: int8 changes vectors, but does not make others of them.
"""


class _Probes(NamedTuple):
    """Token ids of some texts, and torch's vectors of them in float32."""

    sequences: Sequence[NDArray[np.int32]]
    special_tokens: SpecialTokens
    vectors: NDArray[np.float32]


class _WholeModel(torch.nn.Module):
    """All modules of a sentence-transformers model as one, from token ids to vectors."""

    def __init__(self, modules: Sequence[torch.nn.Module], *, masks_prompt: bool) -> None:
        super().__init__()
        self._steps = torch.nn.ModuleList(modules)
        self._masks_prompt = masks_prompt

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pooling_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        features = self._steps[0](features)
        if self._masks_prompt:
            features["attention_mask"] = pooling_mask
        for step in self._steps[1:]:
            features = step(features)
        vectors: torch.Tensor = features["sentence_embedding"]
        return vectors


def main() -> None:
    """Convert as requested."""
    request = Request(**json.loads(sys.argv[1]))
    destination = Path(request.destination)
    try:
        (convert_cross_encoder if request.kind == "cross-encoder" else convert)(request, destination)
    except UsageError as error:
        write_refusal(destination, str(error))


def convert(request: Request, destination: Path) -> None:
    """Write the prepared model into the destination. Raises UsageError where the model cannot be converted."""
    folder = Path(request.folder)
    model = load_checkpoint(folder, torch.device("cpu"), torch.float32)
    limit = model.max_seq_length = input_limit(model, folder)
    reference = reference_vectors(model)
    tokenizer = model_tokenizer(model, folder, limit, threads=1)
    model.tokenizer.backend_tokenizer.save(str(destination / TOKENIZER_FILE))
    np.save(destination / REFERENCE_FILE, reference)
    manifest = Manifest(
        name=request.name,
        digest=request.digest,
        precision=request.precision,
        dimension=reference.shape[1],
        pooling=pooling_name(model),
        max_tokens=limit,
        padding_id=tokenizer.padding_id,
        document_prompt=tokenizer.document_prompt,
        query_prompt=tokenizer.query_prompt,
        masks_prompt=_masks_prompt(model, tokenizer),
        unit_length=normalizes(model),
        truncated=model.truncate_dim is not None,
        versions=converter_versions(),
    )
    probes = _probes(model, manifest, tokenizer)
    in_float = _converted(model, manifest, destination, probes)
    if request.precision == "int8":
        save(quantized(in_float, tokenizer, manifest, request.calibration), destination)
        _compare(probes, manifest, destination, _MOST_DISTANCE["int8"])
    write_manifest(destination, replace(manifest, files=file_digests(destination)))


def _masks_prompt(model: SentenceTransformer, tokenizer: ModelTokenizer) -> bool:
    """Whether some pooling leaves out the prompt, and there is one."""
    has_prompt = bool(tokenizer.document_prompt or tokenizer.query_prompt)
    return has_prompt and any(isinstance(module, Pooling) and not module.include_prompt for module in model)


def _converted(
    model: SentenceTransformer, manifest: Manifest, destination: Path, probes: Sequence[_Probes]
) -> openvino.Model:
    """The whole model for any number and length of texts, compared and saved. Raises as `converted`."""
    transformer: Any = model[0]
    return converted(
        _WholeModel(list(model), masks_prompt=manifest.masks_prompt).eval(),
        ["input_ids", "attention_mask", *(["pooling_mask"] if manifest.masks_prompt else [])],
        manifest,
        destination,
        set_attention=transformer.model.set_attn_implementation,
        compare=lambda: _compare(probes, manifest, destination, _MOST_DISTANCE["float"]),
    )


def _probes(model: SentenceTransformer, manifest: Manifest, tokenizer: ModelTokenizer) -> list[_Probes]:
    """Texts of many lengths as documents and as queries, with torch's vectors of them."""
    forward = Forward(list(model), padding_id=manifest.padding_id, dimension=manifest.dimension)
    passes = TorchPasses(forward, HostTransfer())
    probes = []
    for query in (False, True):
        special_tokens = tokenizer.special_tokens(query=query)
        sequences = probe_sequences(tokenizer, manifest.max_tokens - special_tokens.count, forward.windows())
        probes.append(_Probes(sequences, special_tokens, _vectors(passes, sequences, special_tokens)))
    return probes


def _compare(probes: Sequence[_Probes], manifest: Manifest, destination: Path, most_distance: float) -> None:
    """Raise UsageError unless the saved model gives torch's vectors."""
    passes = prepared_passes(compiled_exactly(destination), manifest, manifest.dimension)
    for sequences, special_tokens, expected in probes:
        distance = np.linalg.norm(_vectors(passes, sequences, special_tokens) - expected, axis=1)
        relative = float((distance / np.linalg.norm(expected, axis=1)).max())
        if not relative <= most_distance:  # true for NaN
            raise UsageError(f"the converted model's vectors differ from the model's by {relative:.1e} of their length")


def _vectors(
    passes: Passes, sequences: Sequence[NDArray[np.int32]], special_tokens: SpecialTokens
) -> NDArray[np.float32]:
    """All in one batch, then each alone."""
    parts = [passes.run(sequences, special_tokens)]
    parts += [passes.run([sequence], special_tokens) for sequence in sequences]
    if any(part is None for part in parts):
        raise MemoryError("memory does not hold the comparison of the converted model with the model")
    return np.concatenate([part.wait() for part in parts if part is not None])


if __name__ == "__main__":
    main()
