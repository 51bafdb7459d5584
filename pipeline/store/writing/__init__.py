"""Writing: the protocol and its two writers, the ledger, and the requests that store rows."""
