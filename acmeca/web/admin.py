"""The admin listener: metrics and health, for those who run the CA. Plain http, on loopback unless configured otherwise.

Rule 1: nothing is changed through it, and nothing it tells is secret or names somebody.
Rule 2: it is reached by no other listener, and its failure is never theirs.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import hdrs, web

from acmeca.service.condition import Condition
from acmeca.service.readiness import Readiness
from acmeca.urls import Paths
from acmeca.web.health import add_health
from acmeca.web.listener import Listener
from acmeca.web.metrics import Metrics
from acmeca.web.status import status_middleware

log = logging.getLogger(__name__)

_SAMPLE_SECONDS: Final = 10.0


@dataclass(slots=True)
class Load:
    """What this worker has open and under way: its listeners by name, and the writes that wait for a commit."""

    listeners: dict[str, Listener] = field(default_factory=dict)
    writes_waiting: Callable[[], int] = int  # none, for a database that does not tell

    def tell(self, metrics: Metrics) -> None:
        connections = {
            name: (listener.connections, listener.max_connections) for name, listener in self.listeners.items()
        }
        metrics.gather(connections=connections, writes_waiting=self.writes_waiting())


def build_admin_app(*, metrics: Metrics, condition: Condition, readiness: Readiness, load: Load) -> web.Application:
    """The application of the admin listener."""

    async def scrape(request: web.Request) -> web.Response:
        figures = await condition.figures()
        load.tell(metrics)
        accept = request.headers.get(hdrs.ACCEPT, "")
        body, content_type = await asyncio.to_thread(metrics.render, figures, accept)
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    app = web.Application(middlewares=[status_middleware])
    app.router.add_get(Paths.METRICS, scrape)
    add_health(app, readiness)
    return app


async def keep_sampling(*, metrics: Metrics, readiness: Readiness, load: Load) -> None:
    """Until cancelled: tell of this worker's load, whichever worker is scraped, and have the probes look.

    So what readiness remembers is never old, and an answer need not wait for what hangs.
    """
    while True:
        await asyncio.sleep(_SAMPLE_SECONDS)
        load.tell(metrics)
        try:
            await readiness.found()
        except Exception:
            log.exception("readiness cannot be told")
