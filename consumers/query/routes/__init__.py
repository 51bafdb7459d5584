"""The routes of the query worker, one file a subject: they translate HTTP, `pipeline.query` does the work."""
