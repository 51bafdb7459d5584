"""A contender: a plain OpenVINO loop over the texts, with the batch size of the job."""

import json
import os
from pathlib import Path
from typing import Any

from tests.bench.contender import Go, arguments, contend
from tests.bench.plain_openvino import PlainOpenVino

_WARM_UP = 64


def main() -> None:
    """Compile the model once for each number of threads; a job names texts, batch size and threads."""
    given = arguments()
    # What `make` sets for the product would take the tokenizer's threads.
    os.environ.pop("TOKENIZERS_PARALLELISM", None)
    texts_of = json.loads(Path(given["texts"]).read_text())
    models: dict[int, PlainOpenVino] = {}

    def prepare(job: dict[str, Any]) -> Go:
        threads = job["threads"]
        if threads not in models:
            models[threads] = PlainOpenVino(Path(given["prepared"]), threads)
        texts = texts_of[job["kind"]][: job["count"]]
        models[threads].encode(texts[:_WARM_UP], job["batch"])

        def go() -> dict[str, Any]:
            models[threads].encode(texts, job["batch"])
            return {"documents": len(texts)}

        return go

    contend(prepare)


if __name__ == "__main__":
    main()
