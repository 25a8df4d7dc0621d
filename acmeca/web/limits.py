"""How many connections each listener takes: descriptors are shared out, so that no listener can use up another's.

Rule 1: what nobody has to authenticate for cannot use the last descriptor. The database, the log, the validations and the
other listeners keep theirs, whatever is opened on one.
"""

import logging
import resource
from dataclasses import dataclass, replace
from typing import Final, Self

log = logging.getLogger(__name__)

_WANTED: Final = 65_536  # descriptors; more would not be used. A container may allow a milliard
_ASSUMED: Final = 1_024  # where the limit cannot be read: what Linux gives by default
_RESERVED: Final = 64  # for the process itself: database, locks, listening sockets, event loop, log
_FEW: Final = 1_024  # below this an administrator should know


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The most connections at a time, per listener. Together they are well below the descriptors that there are."""

    acme: int
    status: int
    control: int
    admin: int

    @classmethod
    def from_descriptors(cls, descriptors: int) -> Self:
        """Share out `descriptors`: a third, a half, a twelfth, a hundredth of what the process itself does not need.

        The fourteenth that is left is for validations. The upper bounds are for memory (see MemoryMax in conf/acmeca.service).
        """
        shared = max(0, descriptors - _RESERVED)
        return cls(
            acme=max(1, min(4_096, shared // 3)),
            status=max(1, min(16_384, shared // 2)),
            control=max(1, min(64, shared // 12)),
            admin=max(1, min(32, shared // 100)),
        )

    def shared_by(self, workers: int) -> Self:
        """One worker's part, so that all of them together take no more than one process would.

        One has the control socket, and of the admin listener's few each has as many.
        """
        return replace(self, acme=max(1, self.acme // workers), status=max(1, self.status // workers))


def raise_descriptor_limit() -> int:
    """Raise the process's soft limit of descriptors towards its hard one; returns how many it may have from now on."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return _ASSUMED
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError) as error:  # a system call filter forbids it
            log.warning("the limit of descriptors stays at %d: %s", soft, error)
    available = _WANTED if soft == resource.RLIM_INFINITY else soft
    if available < _FEW:
        log.warning("only %d descriptors: few connections at a time. Raise LimitNOFILE= or ulimit -n", available)
    return available
