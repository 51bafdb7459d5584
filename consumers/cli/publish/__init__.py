"""`milvus-stream publish`: rows of files (`rows`), checked (`plan`), sent and remembered (`run`, `manifest`)."""
