"""Fuzzing of the query worker's routes by their OpenAPI document: `make fuzz`.

`client` and what it imports run in an environment of their own, with schemathesis and without this project's packages.
"""
