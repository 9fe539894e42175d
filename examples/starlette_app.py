"""A crew inside a web application: it starts before the first request, and stops after the last one.

Any ASGI framework with a lifespan does the same, such as FastAPI. Under a server: `uvicorn starlette_app:app`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import runcrew as rc

crew = rc.Crew("rates")
rates: dict[str, object] = {}


@crew.oneshot(ready="succeeded")
async def warm_up() -> None:
    """Requests are served when this has succeeded: entering the crew waits until all of it is ready."""
    rates["EUR"] = 1.0


@crew.interval("200ms", depends_on=["warm_up"], retry=rc.Retry(ConnectionError, retries=3))
async def refresh() -> None:
    """Keeps the rates fresh, on the loop of the application."""
    rates["at"] = datetime.now(UTC).isoformat()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """A permanent error of the crew is raised here when the application ends; /health tells it at once."""
    async with crew:
        yield


async def show(request: Request) -> JSONResponse:
    """GET /: the rates."""
    return JSONResponse(rates)


async def health(request: Request) -> JSONResponse:
    """GET /health: 200 while the crew runs, 503 otherwise."""
    running = crew.state is rc.State.RUNNING
    return JSONResponse({"crew": crew.state}, status_code=200 if running else 503)


app = Starlette(routes=[Route("/", show), Route("/health", health)], lifespan=lifespan)


async def main() -> None:
    """What a server does with the application: begin its lifespan, pass requests on, end it."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        print("GET /health:", (await client.get("/health")).json())
        print("GET /:", (await client.get("/")).json())
    print("after the lifespan:", crew.state)


if __name__ == "__main__":
    asyncio.run(main())
