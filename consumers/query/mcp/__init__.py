"""The read-only tools of the Model Context Protocol: `tools` does the work, `server` and `http` speak the protocol.

`server` and `http` need the package mcp, and are imported only where it is installed.
"""
