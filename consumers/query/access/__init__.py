"""Who may ask the query worker: keys, tokens of an OpenID provider, tenants, rates, and the audit log.

Routes use `caller_of`, `require` and `note`; everything else is for the composition of the process and the command
`keys`.
"""

from consumers.query.access.audit import note
from consumers.query.access.caller import LOCAL, Caller, Scope, caller_of, require
from consumers.query.access.key_file import KeyFile, change_keys, read_keys
from consumers.query.access.keys import ApiKey, new_key
from consumers.query.access.layer import Access, AccessLayer
from consumers.query.access.oidc import OidcTokens

__all__ = [
    "LOCAL",
    "Access",
    "AccessLayer",
    "ApiKey",
    "Caller",
    "KeyFile",
    "OidcTokens",
    "Scope",
    "caller_of",
    "change_keys",
    "new_key",
    "note",
    "read_keys",
    "require",
]
