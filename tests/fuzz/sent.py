"""One request as it goes over the wire, and the command that repeats it."""

import base64
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sent:
    """A request to a route of the OpenAPI document."""

    method: str
    path: str
    """With its parameters, percent-encoded."""
    route: str
    """The path of the document, and its method: `POST /v1/search`."""
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def command(self, address: str) -> str:
        """A shell command that sends the same again."""
        words = ["curl", "-sS", "-i", "-X", self.method, "--path-as-is", address + self.path]
        for name, value in self.headers.items():
            words += ["-H", f"{name}: {value}"]
        if self.body is None:
            return shlex.join(words)
        packed = base64.b64encode(self.body).decode()
        return f"printf %s {packed} | base64 -d | {shlex.join([*words, '--data-binary', '@-'])}"


@dataclass(frozen=True, slots=True)
class Received:
    """The answer."""

    status: int
    kind: str
    """Its content type without parameters."""
    body: bytes
    seconds: float
