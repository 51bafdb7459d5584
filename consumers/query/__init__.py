"""The query worker: searches over HTTP. Everything behind the route is `pipeline.query`."""
