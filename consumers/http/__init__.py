"""HTTP for every process: the server with its limits, problem JSON, and the endpoints for probes and metrics.

FastAPI and the routes of the query worker are in consumers.query.
"""

from consumers.http.operations import Exposition, Operations, Problems, exposition, routing_problem
from consumers.http.probe_server import ProbeServer
from consumers.http.problems import ErrorBoundaryMiddleware, Problem, bad_body, problem_of
from consumers.http.server import HttpServer, check_address, is_loopback, listen, listen_from

__all__ = [
    "ErrorBoundaryMiddleware",
    "Exposition",
    "HttpServer",
    "Operations",
    "ProbeServer",
    "Problem",
    "Problems",
    "bad_body",
    "check_address",
    "exposition",
    "is_loopback",
    "listen",
    "listen_from",
    "problem_of",
    "routing_problem",
]
