"""Who may ask the query worker, as configured."""

import structlog

from consumers.config import Settings
from consumers.query.access import LOCAL, Access, KeyFile, OidcTokens
from consumers.query.access.caller import ANYBODY
from pipeline.errors import UsageError

log = structlog.get_logger(__name__)


def query_access(settings: Settings, *, local: bool) -> Access:
    """What a caller needs; `local`: only this machine can connect.

    Raises UsageError where others can connect and nothing says who may, and for a file of keys that cannot be used.
    """
    auth, oidc = settings.query.auth, settings.query.auth.oidc
    keys = tokens = None
    if auth.keys_file is not None:
        keys = KeyFile(auth.keys_file)
    if oidc.issuer is not None and oidc.audience is not None:
        tokens = OidcTokens(oidc.issuer, oidc.audience, tenant_claim=oidc.tenant_claim, scope_claim=oidc.scope_claim)
    access = Access(keys, tokens, LOCAL if local else ANYBODY, settings.query.audit_text)
    if not (local or access.authenticates):
        if auth.mode != "none":
            raise UsageError(
                f"query.host {settings.query.host} is an address that others can connect to, and nothing says who may "
                "search: make a key (milvus-stream keys create --file keys.json --name NAME) and set "
                "query.auth.keys_file, or set query.auth.oidc; query.auth.mode: none lets everybody search everything"
            )
        log.warning(
            "query.no_authentication",
            host=settings.query.host,
            advice="anyone who reaches this port can search everything",
        )
    return access
