"""The commands `documents show`, `documents history` and `documents similar`."""

from typing import Annotated

import typer

from consumers.cli.common.options import ConfigFile, Json, Sets, load, print_json

app = typer.Typer(help="One document: what is stored of it, where, and which are similar.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="of the document; behind -- if it begins with a dash")]
Tenant = Annotated[str | None, typer.Option(help="whose document, where several tenants have one of this id")]


@app.command()
def show(
    doc_id: Id,
    config: ConfigFile = None,
    sets: Sets = None,
    tenant: Tenant = None,
    json_: Json = False,
) -> None:
    """Show a document as it is stored now: text, metadata, and the record it came from."""
    settings = load(config, sets)
    from consumers.cli.documents import reading

    document = reading.document(settings, doc_id, tenant)
    print_json(document) if json_ else reading.show_document(document)


@app.command()
def history(
    doc_id: Id,
    config: ConfigFile = None,
    sets: Sets = None,
    tenant: Tenant = None,
    json_: Json = False,
) -> None:
    """Show where a document is in Milvus, what the ledger knows of it, and its records; also of a deleted one."""
    settings = load(config, sets)
    from consumers.cli.documents import reading

    found = reading.history(settings, doc_id, tenant)
    print_json(found) if json_ else reading.show_history(found)


@app.command()
def similar(
    doc_id: Id,
    config: ConfigFile = None,
    sets: Sets = None,
    tenant: Tenant = None,
    limit: Annotated[int, typer.Option(min=1)] = 10,
    json_: Json = False,
) -> None:
    """Find documents that are similar in meaning to a stored one; loads no model."""
    settings = load(config, sets)
    from consumers.cli.documents import reading

    result = reading.similar(settings, doc_id, tenant, limit)
    if json_:
        print_json(result)
    else:
        from consumers.cli.common.output import stdout
        from consumers.cli.common.results import show_results

        show_results(result, stdout())
