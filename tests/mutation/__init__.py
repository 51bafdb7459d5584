"""The mutation gate: `make mutants` breaks the code in the ways that would lose or falsify data; the tests must notice.

`python -m tests.mutation --only NAME` tries one of them.
"""
