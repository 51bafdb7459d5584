"""The texts: Python's documentation, as it is and in lengths like those of news, and descriptions of packages."""

import hashlib
import json
import math
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from consumers.local import stdlib_documents
from pipeline.embedding import EmbeddingSettings, load_embedder, prepared_model
from pipeline.embedding.loading.model_files import find_model
from pipeline.records import Tokenizer
from pipeline.telemetry import configure_logging

SHORT_TOKENS = 64
PACKAGES_FILE = Path("/var/lib/dpkg/status")
LEAST_PACKAGES = 200
"""Different descriptions: with fewer of them a rate says nothing."""
_MEDIAN_TOKENS, _SIGMA = 125, 0.87
"""News stories: 5, 50 and 95 of 100 have at most some 15-30, 125 and 526 tokens; a log-normal law with these values."""
_LEAST_TOKENS = 5
_QUERY_CHARACTERS, _REST_CHARACTERS = 20, 80

KnownItem: TypeAlias = tuple[str, str]
"""What somebody would ask for (the first line of a text), and the text without it."""


def documents() -> list[str]:
    """Every text, whole, in an order that makes any first N a fair mixture."""
    return [document.text for document in stdlib_documents()]


def short(tokenizer: Tokenizer, count: int) -> list[str]:
    """Texts as they are, of at most `SHORT_TOKENS` tokens."""
    texts = documents()
    counted = zip(texts, tokenizer.tokenize(texts), strict=True)
    return [text for text, tokens in counted if len(tokens.ids) <= SHORT_TOKENS][:count]


def mixed(tokenizer: Tokenizer, count: int) -> list[str]:
    """Pieces of running text in lengths like those of news stories, cut off at what the model reads at once."""
    return pieces(tokenizer, news_lengths(count, tokenizer.max_tokens))


def of_length(tokenizer: Tokenizer, count: int, tokens: int) -> list[str]:
    """Pieces of running text, all of the same number of tokens."""
    return pieces(tokenizer, [tokens] * count)


def package_descriptions(lines: Iterable[str]) -> list[str]:
    """Descriptions of packages, as dpkg lists them; none twice, in an order that makes any first N a fair mixture."""
    found = {"\n".join(text) for text in _descriptions(lines)}
    return sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())


def _descriptions(lines: Iterable[str]) -> Iterator[list[str]]:
    text: list[str] = []
    for line in lines:
        if line.startswith("Description:"):
            text = [line.partition(":")[2].strip()]
        elif line.startswith(" ") and text:
            text.append("" if line.strip() == "." else line.strip())
        elif text:
            yield text
            text = []
    if text:
        yield text


def packages(tokenizer: Tokenizer, count: int) -> list[str]:
    """Descriptions of this machine's packages, cut off at what the model reads at once; none where it has too few."""
    if not PACKAGES_FILE.is_file():
        return []
    found = package_descriptions(PACKAGES_FILE.read_text(errors="replace").splitlines())
    if len(found) < LEAST_PACKAGES:
        return []
    counted = zip(found[:count], tokenizer.tokenize(found[:count]), strict=True)
    return [text[: int(tokens.ends[: tokenizer.max_tokens][-1])] for text, tokens in counted]


def pieces(tokenizer: Tokenizer, lengths: Sequence[int]) -> list[str]:
    """The documentation as one stream, cut into pieces of so many tokens; from the start again when it is used up."""
    stream = "\n\n".join(documents())
    tokens = tokenizer.tokenize([stream])[0]
    texts: list[str] = []
    at = 0
    for length in lengths:
        if at + length >= len(tokens.ids):
            at = 0
        start, end = int(tokens.starts[at]), int(tokens.ends[at + length - 1])
        texts.append(stream[start:end])
        at += length
    return texts


def news_lengths(count: int, most: int) -> list[int]:
    """Tokens of each text; the same in every run."""
    rng = random.Random(11)
    drawn = (rng.lognormvariate(math.log(_MEDIAN_TOKENS), _SIGMA) for _ in range(count))
    return [max(_LEAST_TOKENS, min(most, round(length))) for length in drawn]


def known_items(count: int) -> list[KnownItem]:
    """Different first lines with the rests of their texts, each at least a few words."""
    found: dict[str, str] = {}
    for text in documents():
        first, _, rest = text.partition("\n")
        if len(first) >= _QUERY_CHARACTERS and len(rest.strip()) >= _REST_CHARACTERS:
            found.setdefault(first.strip(), rest.strip())
    return list(found.items())[:count]


KINDS = {"mixed": mixed, "short": short, "packages": packages}


def main() -> None:
    """Write the texts of each kind and say where the model is; in a process of its own, which loads it."""
    given = json.loads(sys.argv[1])
    configure_logging("warning", "json")
    settings = EmbeddingSettings(given["model"], device="cpu", dtype="float32", token_budget=1024)
    model = load_embedder(settings)
    kinds = {kind: texts(model.tokenizer, given["count"]) for kind, texts in KINDS.items()}
    prepared = str(prepared_model(settings).folder) if model.engine == "openvino" else ""
    model.close()
    Path(given["texts"]).write_text(json.dumps(kinds))
    facts = {"folder": str(find_model(given["model"])), "prepared": prepared, "kinds": [k for k in kinds if kinds[k]]}
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
