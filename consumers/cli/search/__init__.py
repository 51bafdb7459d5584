"""The command `search`: its request, answered here or by a query worker, once or at an interval."""
