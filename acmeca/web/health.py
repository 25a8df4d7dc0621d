"""`/health/live` and `/health/ready`, on the status listener for load balancers and on the admin listener for monitoring."""

from typing import Final

from aiohttp import web

from acmeca.service.readiness import Readiness
from acmeca.urls import Paths

_NOT_KEPT: Final = {"Cache-Control": "no-store"}


def add_health(app: web.Application, readiness: Readiness) -> None:
    """Route both."""

    async def live(_: web.Request) -> web.Response:
        """The event loop turns. Whether everything behind it works is not asked here."""
        return web.Response(text="live\n", headers=_NOT_KEPT)

    async def ready(_: web.Request) -> web.Response:
        """RULES §5: "What is stale makes readiness fail well before nextUpdate." A line for each fault."""
        faults = await readiness.faults()
        text = "".join(f"{fault}\n" for fault in faults) or "ready\n"
        return web.Response(status=503 if faults else 200, text=text, headers=_NOT_KEPT)

    app.router.add_get(Paths.HEALTH_LIVE, live)
    app.router.add_get(Paths.HEALTH_READY, ready)
