"""The commands `keys create`, `keys list` and `keys revoke`: the file of API keys of the query worker."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from consumers.cli.common.options import ConfigFile, Json, Sets, load, print_json

if TYPE_CHECKING:
    from consumers.query.access import ApiKey

app = typer.Typer(help="API keys of the query worker.", no_args_is_help=True)
_File = Annotated[
    Path | None, typer.Option("--file", help="the file of keys [default: query.auth.keys_file]", dir_okay=False)
]


@app.command("create")
def create(
    name: Annotated[str, typer.Option("--name", help="who uses the key, for the audit log")],
    file: _File = None,
    scope: Annotated[
        Literal["search", "admin"], typer.Option(help="what it permits; admin: everything, also the metrics")
    ] = "search",
    tenant: Annotated[str | None, typer.Option(help="only this tenant's documents [default: all documents]")] = None,
    rate: Annotated[float | None, typer.Option(metavar="N", help="requests a second [default: no limit]")] = None,
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", metavar="90d", help="how long it is valid [default: until revoked]")
    ] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Make a key and print it on stdout, this once; the file holds its hash. A running query worker takes it."""
    from datetime import UTC, datetime

    from pydantic import ValidationError

    from consumers.query.access import change_keys, new_key
    from pipeline.errors import UsageError
    from pipeline.timestamps import parse_duration

    path, now = _path(file, config, sets), datetime.now(UTC).replace(microsecond=0)
    try:
        expires = None if expires_in is None else now + parse_duration(expires_in)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--expires-in {expires_in}: {error}") from None
    if expires is not None and expires <= now:
        raise UsageError(f"--expires-in {expires_in}: must be at least a second")
    try:
        key, stored = new_key(name, scopes=(scope,), tenant=tenant, rate=rate, created=now, expires=expires)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"--{problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}") from None
    with change_keys(path) as keys:
        keys.append(stored)
    if json_:
        print_json({"key": key, **_shown(stored)})
    else:
        sys.stderr.write(f"key {stored.id} for {name} is in {path}; it is shown this once:\n")
        sys.stdout.write(f"{key}\n")


@app.command("list")
def list_(file: _File = None, config: ConfigFile = None, sets: Sets = None, json_: Json = False) -> None:
    """List the keys: who uses them, what they permit, and whether they have expired. No key can be shown again."""
    from consumers.query.access import read_keys

    views = [_shown(key) for key in read_keys(_path(file, config, sets))]
    if json_:
        print_json(views)
        return
    from consumers.cli.common.output import stdout, table

    columns = ("id", "scopes", "rate", "expires", "expired", "tenant", "name")
    rows = [[_cell(view[column]) for column in columns] for view in views]
    stdout().print(table(columns, rows))


@app.command("revoke")
def revoke(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="as printed by `keys list`")],
    file: _File = None,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Remove a key; a running query worker refuses it within a second."""
    from consumers.query.access import change_keys
    from pipeline.errors import UsageError

    path = _path(file, config, sets)
    with change_keys(path) as keys:
        remaining = [key for key in keys if key.id != identifier]
        if len(remaining) == len(keys):
            raise UsageError(f"there is no key with this id in {path}; `keys list` shows the ids")
        keys[:] = remaining
    sys.stderr.write(f"key {identifier} is revoked\n")


def _path(file: Path | None, config: Path | None, sets: list[str] | None) -> Path:
    """The file of keys. Raises UsageError where neither the option nor the configuration names one."""
    if file is not None:
        return file
    configured = load(config, sets).query.auth.keys_file
    if configured is None:
        from pipeline.errors import UsageError

        raise UsageError("name the file of keys: --file keys.json, or set query.auth.keys_file")
    return configured


def _shown(key: "ApiKey") -> dict[str, Any]:
    from datetime import UTC, datetime

    view = key.model_dump(mode="json", exclude={"sha256"})
    return {**view, "expired": key.expired(datetime.now(UTC))}


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
