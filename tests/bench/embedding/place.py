"""What the parts stand on: a folder, the model, texts and what is known of the machine."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.report import say


@dataclass(frozen=True, slots=True)
class Place:
    """A folder for this run."""

    folder: Path
    machine: Mapping[str, Any]
    model: str
    """As `embedding.model` names it."""
    model_folder: str = ""
    """Empty where no part needs the model."""
    prepared: str = ""
    """The folder of the prepared model; empty where OpenVINO does not run it."""
    kinds: tuple[str, ...] = ()
    """Kinds of texts that this machine has."""

    def arguments(self) -> dict[str, Any]:
        """For every contender."""
        return {
            "model": self.model,
            "model_folder": self.model_folder,
            "prepared": self.prepared,
            "texts": str(self.folder / "texts.json"),
        }


def with_texts(folder: Path, machine: Mapping[str, Any], model: str, count: int) -> Place:
    """A place with `count` texts of each kind, cut in the model's tokens."""
    say("loading the model, cutting the texts")
    given = {"model": model, "count": count, "texts": str(folder / "texts.json")}
    command = [sys.executable, "-m", "tests.bench.embedding.texts", json.dumps(given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    return Place(folder, machine, model, facts["folder"], facts["prepared"], tuple(facts["kinds"]))
