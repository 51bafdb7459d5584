"""`python -m consumers.cli`: the same as the command `milvus-stream`."""

from consumers.cli.app import main

main()
