"""Helpers shared by the tests: waiting with a deadline, unique names, the servers."""
