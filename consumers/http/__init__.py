"""HTTP for every process: the server with its limits, problem JSON, and the endpoints for probes and metrics.

FastAPI and the routes of the query worker are in consumers.query.
"""
