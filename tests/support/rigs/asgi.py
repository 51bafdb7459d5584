"""Requests to an application in this process, without a server."""

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """A client; an error that the application lets through is raised."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def send(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    """One request; redirects are not followed."""

    async def one() -> httpx.Response:
        async with client_of(app) as client:
            return await client.request(method, path, **options)

    return asyncio.run(one())
