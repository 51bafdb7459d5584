"""Real documents for the demo and the benchmarks: the documentation inside the running Python's standard library."""

import hashlib
import importlib
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

# Importing these prints, opens a window or a browser, or starts something.
_LEFT_OUT = {"antigravity", "this", "idlelib", "turtledemo", "lib2to3", "test", "tkinter", "turtle", "__main__"}


@dataclass(frozen=True, slots=True)
class SampleDocument:
    """One piece of documentation."""

    id: str
    """What it documents, e.g. `json.loads` or `topic:COMPARISON`; unique."""
    text: str
    module: str
    kind: str
    """module | class | function | topic."""


def stdlib_documents() -> Iterator[SampleDocument]:
    """Docstrings of the standard library's modules, classes and functions, then `pydoc_data.topics`; no text twice.

    The order is the same in every run of one Python: by a digest of the id, so that any first N are a fair mixture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated modules and attributes are documented all the same
        documents = {document.id: document for document in [*_topics(), *_docstrings()]}
    seen: set[str] = set()
    for document in sorted(documents.values(), key=lambda item: hashlib.sha256(item.id.encode()).digest()):
        if document.text not in seen:
            seen.add(document.text)
            yield document


def _topics() -> Iterator[SampleDocument]:
    from pydoc_data.topics import topics  # noqa: PLC0415 - a large module that only this needs

    for name, text in topics.items():
        yield SampleDocument(f"topic:{name}", inspect.cleandoc(text), "pydoc_data.topics", "topic")


def _docstrings() -> Iterator[SampleDocument]:
    for name in sorted(_module_names()):
        try:
            module = importlib.import_module(name)
        except Exception:  # noqa: S112 - a module of another platform, whatever it raises: no docs here
            continue
        yield from _of_module(module)


def _module_names() -> Iterator[str]:
    for name in sys.stdlib_module_names:
        if name not in _LEFT_OUT and not name.startswith("_"):
            yield name
    for package in ("asyncio", "collections", "concurrent", "email", "http", "importlib", "logging", "unittest"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            if "__main__" not in module.name:
                yield module.name


def _of_module(module: ModuleType) -> Iterator[SampleDocument]:
    name = module.__name__
    if text := _text(module):
        yield SampleDocument(name, text, name, "module")
    for member_name, member in sorted(vars(module).items()):
        if member_name.startswith("_") or getattr(member, "__module__", None) != name:
            continue
        if inspect.isclass(member):
            if text := _text(member):
                yield SampleDocument(f"{name}.{member_name}", text, name, "class")
            for method_name, method in sorted(vars(member).items()):
                if not method_name.startswith("_") and inspect.isroutine(method) and (text := _text(method)):
                    yield SampleDocument(f"{name}.{member_name}.{method_name}", text, name, "function")
        elif inspect.isroutine(member) and (text := _text(member)):
            yield SampleDocument(f"{name}.{member_name}", text, name, "function")


def _text(thing: object) -> str:
    """The docstring where it says more than a few words."""
    text = getattr(thing, "__doc__", None)
    return inspect.cleandoc(text).strip() if isinstance(text, str) and len(text) >= 40 else ""
