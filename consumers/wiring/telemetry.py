"""The address for probes and metrics of a worker."""

import socket

from consumers.config import Settings
from consumers.http import listen, listen_from


def probe_listener(settings: Settings) -> socket.socket:
    """A listening socket on telemetry.host and telemetry.port.

    A default port that another worker of this machine has gives way to the next free one; a configured port is a
    contract with whoever scrapes it. Raises UsageError where the address cannot be had.
    """
    telemetry = settings.telemetry
    opened = listen if "port" in telemetry.model_fields_set else listen_from
    return opened("telemetry", telemetry.host, telemetry.port)
