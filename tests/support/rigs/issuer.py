"""An OpenID provider on loopback with real keys: discovery, published keys, and tokens signed by them."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "milvus-stream"


class Issuer:
    """Signs tokens; `answers` replaces what a path is answered with, `reads` counts the reads of each path."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.private: dict[str, Any] = {}
        self.published: list[dict[str, Any]] = []
        self.reads: dict[str, int] = {}
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.add("rsa", "RS256")
        self.add("ec", "ES256")

    def add(self, kid: str, algorithm: str) -> None:
        """A new key, published."""
        if algorithm.startswith("ES"):
            key: Any = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        self.private[kid] = key
        self.published.append({**public, "kid": kid, "alg": algorithm, "use": "sig"})

    def token(self, kid: str = "rsa", *, algorithm: str | None = None, key: Any = None, **claims: Any) -> str:
        """A token of this issuer; a claim given as None is left out."""
        now = int(time.time())
        whole = {"iss": self.address, "aud": AUDIENCE, "sub": "somebody", "iat": now, "exp": now + 300, **claims}
        payload = {name: value for name, value in whole.items() if value is not None}
        used = algorithm or ("ES256" if kid == "ec" else "RS256")
        return jwt.encode(payload, key or self.private[kid], algorithm=used, headers={"kid": kid})

    def answer(self, path: str) -> tuple[int, bytes]:
        """Status and body of a path."""
        self.reads[path] = self.reads.get(path, 0) + 1
        if path in self.answers:
            return self.answers[path]
        documents: dict[str, Any] = {
            "/.well-known/openid-configuration": {"issuer": self.address, "jwks_uri": f"{self.address}/keys"},
            "/keys": {"keys": self.published},
        }
        if path not in documents:
            return 404, b"{}"
        return 200, json.dumps(documents[path]).encode()


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """An issuer that answers on loopback until the end of the block."""
    issuer: Issuer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = issuer.answer(self.path)
            self.send_response(status)
            if status == 302:
                self.send_header("location", body.decode())
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = Issuer(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()
