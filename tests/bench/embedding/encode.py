"""A contender: `SentenceTransformer.encode`, untouched or with the precision and batch size of the job."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from tests.bench.contender import Go, arguments, contend

_WARM_UP = 32


def main() -> None:
    """Load the model in each precision asked for; a job names texts, batch size, precision and threads."""
    given = arguments()
    # What `make` sets for the product would take the tokenizer's threads from an untouched `encode`.
    os.environ.pop("TOKENIZERS_PARALLELISM", None)
    texts_of = json.loads(Path(given["texts"]).read_text())
    models = {
        dtype: SentenceTransformer(given["model_folder"], device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
        for dtype in given["dtypes"]
    }
    models["untouched"] = SentenceTransformer(given["model_folder"], device="cpu")

    def prepare(job: dict[str, Any]) -> Go:
        texts, model = texts_of[job["kind"]][: job["count"]], models[job["dtype"]]
        options = {} if job["batch"] is None else {"batch_size": job["batch"]}
        torch.set_num_threads(job["threads"])
        model.encode(texts[:_WARM_UP], show_progress_bar=False, **options)

        def go() -> dict[str, Any]:
            model.encode(texts, show_progress_bar=False, **options)
            return {"documents": len(texts)}

        return go

    contend(prepare)


if __name__ == "__main__":
    main()
