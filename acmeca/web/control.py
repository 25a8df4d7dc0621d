"""The admin socket: a Unix socket of mode 0600 in the data directory, for the command line on the same machine.

Rule 1: who may open the socket may administer (the file's mode is the check); who it was is read from the kernel, not
from the request, and stands in the audit.
"""

import logging
import pwd
import socket
import struct
from typing import Final

from aiohttp import web

from acmeca.acme.strict_json import parse_object
from acmeca.errors import AcmecaError, Busy, Conflict, NotFound
from acmeca.service.administration import Administration

log = logging.getLogger(__name__)

SOCKET_NAME: Final = "acmeca.sock"
_PATH: Final = "/{operation}"
_MAX_BODY: Final = 64 * 1024  # octets
_STATUS: Final = {NotFound: 404, Conflict: 409, Busy: 503}


def build_control_app(administration: Administration) -> web.Application:
    """`POST /operation` with a JSON object; the answer is `{"result": …}` or `{"error": …}`, whatever happens."""

    async def call(request: web.Request) -> web.Response:
        try:
            arguments = parse_object(await request.read() or b"{}")
            result = await administration.call(request.match_info["operation"], arguments, user=_peer(request))
        except AcmecaError as error:
            return web.json_response({"error": str(error)}, status=_STATUS.get(type(error), 400))
        except ValueError as error:
            return web.json_response({"error": f"the request cannot be read: {error}"}, status=400)
        except web.HTTPRequestEntityTooLarge:
            return web.json_response({"error": f"the request has more than {_MAX_BODY} bytes"}, status=413)
        except Exception:
            log.exception("the operation %r failed unexpectedly", request.match_info["operation"])
            return web.json_response({"error": "the server failed; its log says more"}, status=500)
        return web.json_response({"result": result})

    app = web.Application(client_max_size=_MAX_BODY)
    app.router.add_post(_PATH, call)
    return app


def _peer(request: web.Request) -> str:
    """The name of the user at the other end (SO_PEERCRED)."""
    connection = request.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return user_name(uid)


def user_name(uid: int) -> str:
    """The name of a user id, or the id where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
