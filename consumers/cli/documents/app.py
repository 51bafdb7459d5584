"""The commands `documents show`, `documents history` and `documents similar`."""

from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from consumers.cli.common.options import ConfigFile, Json, Sets, Url, load, print_json

if TYPE_CHECKING:
    from consumers.config import Settings

app = typer.Typer(help="One document: what is stored of it, where, and which are similar.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="of the document; behind -- if it begins with a dash")]
Tenant = Annotated[str | None, typer.Option(help="whose document, where several tenants have one of this id")]


@app.command()
def show(
    doc_id: Id,
    config: ConfigFile = None,
    sets: Sets = None,
    tenant: Tenant = None,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Show a document as it is stored now: text, metadata, and the record it came from."""
    settings = load(config, sets)
    document = _documents(settings, url).document(doc_id, tenant)
    if json_:
        print_json(document)
    else:
        from consumers.cli.documents.printing import show_document

        show_document(document)


@app.command()
def history(
    doc_id: Id,
    config: ConfigFile = None,
    sets: Sets = None,
    tenant: Tenant = None,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Show where a document is in Milvus, what the ledger knows of it, and its records; also of a deleted one."""
    settings = load(config, sets)
    found = _documents(settings, url).history(doc_id, tenant)
    if json_:
        print_json(found)
    else:
        from consumers.cli.documents.printing import show_history

        show_history(found)


@app.command()
def similar(
    doc_id: Id,
    config: ConfigFile = None,
    sets: Sets = None,
    tenant: Tenant = None,
    limit: Annotated[int, typer.Option(min=1)] = 10,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Find documents that are similar in meaning to a stored one; loads no model."""
    settings = load(config, sets)
    result = _documents(settings, url).similar(doc_id, tenant, limit)
    if json_:
        print_json(result)
    else:
        from consumers.cli.common.output import stdout
        from consumers.cli.common.results import show_results

        show_results(result, stdout())


class _Documents(Protocol):
    """Reads of single documents, here or by a query worker."""

    def document(self, doc_id: str, tenant: str | None) -> dict[str, Any]: ...

    def history(self, doc_id: str, tenant: str | None) -> dict[str, Any]: ...

    def similar(self, doc_id: str, tenant: str | None, limit: int) -> dict[str, Any]: ...


def _documents(settings: "Settings", url: str | None) -> _Documents:
    if url is None:
        from consumers.cli.documents.reading import LocalDocuments

        return LocalDocuments(settings)
    from consumers.cli.common.remote import query_worker

    return query_worker(settings, url)
