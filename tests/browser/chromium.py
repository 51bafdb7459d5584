"""A real Chromium, and the page of a query worker on loopback for it."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright
from starlette.types import ASGIApp

from consumers.http import HttpServer
from consumers.http.server import listen


def executable() -> str:
    """The browser: `CHROMIUM` names it, else what the system has."""
    names = [os.environ.get("CHROMIUM") or "chromium", "chromium-browser", "google-chrome"]
    path = next(filter(None, map(shutil.which, names)), None)
    assert path is not None, f"none of {', '.join(names)} is installed; `make test-browser` installs Debian's"
    return path


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window. Its sandbox needs rights that containers do not give to root."""
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=executable(), args=options)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The address of an application, served as a query worker serves it."""
    listener: socket.socket = listen("query", "127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = HttpServer(app, listener, connections=64, drain_s=1)
    thread = threading.Thread(target=server.serve_until_stopped, name="page", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
