"""The listeners of an open CA: what is bound, in what order it starts, and how it stops.

Rule 1: listeners start when the CA has fresh keys and CRLs, and stop before the duties do: what is in flight is finished.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from aiohttp import web

from acmeca import __version__, audit
from acmeca.app.composition import Opened, config_sha256, directory_meta, front_page_model, opened, sign_if_possible
from acmeca.config import Config
from acmeca.errors import AcmecaError
from acmeca.storage.errors import FencedError
from acmeca.web.acme import MAX_BODY, AcmeResources
from acmeca.web.admin import build_admin_app, keep_sampling
from acmeca.web.control import SOCKET_NAME, build_control_app
from acmeca.web.front_page import add_front_page
from acmeca.web.limits import ConnectionLimits, raise_descriptor_limit
from acmeca.web.listener import Listener, ListenerError, bind_address, bind_socket_file
from acmeca.web.metrics import observing
from acmeca.web.middleware import acme_middleware, build_refusals
from acmeca.web.problem_page import add_problem_page
from acmeca.web.status import StatusResources, status_middleware
from acmeca.workers.seat import Seat

log = logging.getLogger(__name__)


def build_acme_app(opened: Opened) -> web.Application:
    """The application of the ACME listener."""
    middleware = observing(opened.metrics, acme_middleware(opened.services, cors=opened.config.server.cors))
    app = web.Application(middlewares=[middleware], client_max_size=MAX_BODY)
    AcmeResources(opened.services, meta=directory_meta(opened.config)).add_routes(app)
    add_front_page(app, lambda: front_page_model(opened))
    add_problem_page(app)
    return app


def build_status_app(opened: Opened) -> web.Application:
    """The application of the status listener."""
    app = web.Application(middlewares=[status_middleware], client_max_size=MAX_BODY)
    StatusResources(opened.services).add_routes(app)
    add_front_page(app, lambda: front_page_model(opened))
    return app


def build_operations_app(opened: Opened) -> web.Application:
    """The application of the admin listener."""
    return build_admin_app(
        metrics=opened.metrics,
        condition=opened.condition,
        readiness=opened.services.readiness,
        load=opened.load,
    )


def bind_sockets(config: Config, *, workers: int) -> list[dict[str, list[socket.socket]]]:
    """For each worker the sockets that it serves on, by the names of the listeners. Raises `ListenerError`."""
    shares: list[dict[str, list[socket.socket]]] = [{} for _ in range(workers)]
    for name, (host, port) in (
        ("acme", config.server.acme_listen),
        ("status", config.server.status_listen),
        ("admin", config.server.admin_listen),
    ):
        try:
            bound = bind_address(host, port, shares=workers)
        except ListenerError as error:
            if name != "admin" or config.server.is_admin_listen_asked_for:
                raise
            _log_without_metrics(error)
            continue
        for share, sockets in zip(shares, bound, strict=True):
            share[name] = sockets
    shares[0]["control"] = [bind_socket_file(config.server.data_dir / SOCKET_NAME)]
    return shares


@asynccontextmanager
async def serving(opened: Opened, *, seat: Seat | None = None) -> AsyncIterator[None]:
    """The listeners and duties of an open CA, from ready to stopped. With a `seat`, on the sockets that it gives."""
    config = opened.config
    sockets = {} if seat is None else seat.take()
    acme_host, acme_port = config.server.acme_listen
    status_host, status_port = config.server.status_listen
    limits = ConnectionLimits.from_descriptors(raise_descriptor_limit()).shared_by(1 if seat is None else seat.of)
    status = Listener(build_status_app(opened), host=status_host, port=status_port, max_connections=limits.status)
    acme = Listener(
        build_acme_app(opened),
        host=acme_host,
        port=acme_port,
        tls=opened.tls,
        max_connections=limits.acme,
        refusal=build_refusals(config.urls),
    )
    control = Listener(build_control_app(opened.administration), host="", port=0, max_connections=limits.control)
    admin_host, admin_port = config.server.admin_listen
    admin = Listener(build_operations_app(opened), host=admin_host, port=admin_port, max_connections=limits.admin)
    opened.load.listeners.update(acme=acme, status=status, control=control, admin=admin)
    socket_path = config.server.data_dir / SOCKET_NAME
    async with AsyncExitStack() as stack:
        await opened.jobs.prepare()
        # Pushed in the opposite order of what a stop does: requests may begin validations, so they are finished first.
        stack.push_async_callback(opened.services.challenges.stop)
        if seat is None:
            stack.callback(socket_path.unlink, missing_ok=True)
        stack.push_async_callback(_stop_all, (status, acme, control, admin))
        await status.start(sockets.get("status"))
        await acme.start(sockets.get("acme"))
        if seat is None:
            await _start_admin(admin, config)
            await control.start_on_socket(socket_path)
        else:
            for listener, name in ((admin, "admin"), (control, "control")):
                if name in sockets:
                    await listener.start(sockets[name])
        opened.endpoints.listeners.extend((status, acme, admin))
        await _note_if_possible(
            opened, audit.ServerStarted(actor=audit.SYSTEM, version=__version__, config_sha256=config_sha256(config))
        )
        await sign_if_possible(opened.audit_heads.sign_with_new_key)
        jobs = asyncio.create_task(opened.jobs.run(), name="jobs")
        sampling = asyncio.create_task(
            keep_sampling(metrics=opened.metrics, readiness=opened.services.readiness, load=opened.load),
            name="sampling",
        )
        try:
            yield
        finally:
            for task in (jobs, sampling):
                task.cancel()
            for task in (sampling, jobs):
                with suppress(asyncio.CancelledError):
                    await task
    await _note_if_possible(opened, audit.ServerStopped(actor=audit.SYSTEM, version=__version__))


async def _start_admin(admin: Listener, config: Config) -> None:
    """What was asked for has to be there. A port that nobody chose may be taken: no CA is down for want of its metrics."""
    try:
        await admin.start()
    except ListenerError as error:
        if config.server.is_admin_listen_asked_for:
            raise
        _log_without_metrics(error)


def _log_without_metrics(error: ListenerError) -> None:
    log.warning("no metrics are served: %s. It is server.admin_listen that says where", error)


async def _stop_all(listeners: Sequence[Listener]) -> None:
    """All at once: each may wait for requests under way, and a service manager waits for all of them."""
    await asyncio.gather(*(listener.stop() for listener in listeners))


async def serve(config: Config, *, on_ready: Callable[[Opened], None], seat: Seat | None = None) -> None:
    """Run until SIGINT or SIGTERM; what is in flight then is finished. With a `seat`, as one of a server's workers."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with opened(config, seat=seat) as ca:
        async with serving(ca, seat=seat):
            on_ready(ca)
            fenced = asyncio.create_task(ca.jobs.fenced.wait())
            asked = asyncio.create_task(stop.wait())
            await asyncio.wait({fenced, asked}, return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping: requests in flight are finished")
            for task in (fenced, asked):
                task.cancel()
        if ca.jobs.fenced.is_set():
            raise FencedError(
                f"another process writes as {ca.store.writer.name} now; if both are meant to run, the data directory of one is "
                "a copy: delete the file node in it"
            )


async def _note_if_possible(opened: Opened, event: audit.Event) -> None:
    """Starts and stops: on a full disk nothing is issued, but OCSP and the CRLs have to be served all the same."""
    try:
        await opened.store.note(event, at=opened.services.ambient.now())
    except AcmecaError:
        log.exception("%s is not in the audit", event.kind)
