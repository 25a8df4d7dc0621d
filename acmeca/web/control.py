"""The admin socket: a Unix socket of mode 0600 in the data directory, for the command line on the same machine.

Rule 1: who may open the socket may administer (the file's mode is the check); who it was is read from the kernel, not
from the request, and stands in the audit.
"""

import json
import pwd
import socket
import struct
from typing import Final

from aiohttp import web

from acmeca.errors import AcmecaError, Busy, Conflict, NotFound
from acmeca.service.administration import Administration

SOCKET_NAME: Final = "acmeca.sock"
_PATH: Final = "/{operation}"
_STATUS: Final = {NotFound: 404, Conflict: 409, Busy: 503}


def build_control_app(administration: Administration) -> web.Application:
    """`POST /operation` with a JSON object; the answer is `{"result": …}` or `{"error": …}`."""

    async def call(request: web.Request) -> web.Response:
        try:
            arguments = json.loads(await request.read() or b"{}")
            if not isinstance(arguments, dict):
                raise AcmecaError("the body has to be a JSON object")
            result = await administration.call(request.match_info["operation"], arguments, user=_peer(request))
        except AcmecaError as error:
            return web.json_response({"error": str(error)}, status=_STATUS.get(type(error), 400))
        except ValueError as error:
            return web.json_response({"error": f"the request cannot be read: {error}"}, status=400)
        return web.json_response({"result": result})

    app = web.Application(client_max_size=64 * 1024)
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
