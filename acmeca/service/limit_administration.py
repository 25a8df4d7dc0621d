"""What administrators ask and order about rate limits: how far each is used up, and to make one whole before its time."""

from collections.abc import Mapping
from typing import Final

from acmeca import audit
from acmeca.acme.objects import format_time
from acmeca.errors import AcmecaError, NotFound
from acmeca.service.ambient import Ambient
from acmeca.service.arguments import Json, Operation, cut, number, text
from acmeca.storage.limits import Usage
from acmeca.storage.store import Store

_LISTED: Final = 50
_MAX_LISTED: Final = 10_000


class LimitAdministration:
    """The operations about rate limits, by name (`operations`), for `administration.py`."""

    def __init__(self, store: Store, *, ambient: Ambient) -> None:
        self._store = store
        self._ambient = ambient
        self.operations: Mapping[str, Operation] = {"limit_list": self._list, "limit_reset": self._reset}

    async def _list(self, arguments: Json, _: str) -> Json:
        """Arguments: `about` (a part of a limit's name; all without it), `limit` (how many). The fullest come first."""
        most = number(arguments, "limit")
        most = _LISTED if most is None else most
        if not 0 < most <= _MAX_LISTED:
            raise AcmecaError(f"limit: 1 to {_MAX_LISTED} is allowed")
        about = text(arguments, "about") or ""
        found = [usage for usage in await self._store.limits.usages(at=self._ambient.now()) if about in usage.name]
        return {"limits": [_shown(usage) for usage in found[:most]], "is_cut": len(found) > most}

    async def _reset(self, arguments: Json, user: str) -> Json:
        """Arguments: `name`, as `limit_list` has it."""
        name = text(arguments, "name") or ""
        if not await self._store.limits.reset(name, actor=audit.admin_actor(user), at=self._ambient.now()):
            raise NotFound(f"{cut(name)!r} is no limit of which something is used up; acmeca limits list shows those")
        return {"name": name}


def _shown(usage: Usage) -> Json:
    return {
        "name": usage.name,
        "used": usage.used,
        "of": usage.rate.count,
        "period": usage.rate.period,
        "free_at": None if usage.free_at is None else format_time(usage.free_at),
        "whole_at": format_time(usage.whole_at),
    }
