"""What a worker is given (workers/seat.py), and its end of the lifeline (workers/lifeline.py)."""

import os
import socket
import subprocess
import sys

import pytest

from acmeca.errors import AcmecaError
from acmeca.workers.lifeline import EXIT_ORPHANED
from acmeca.workers.seat import Seat

SEAT = Seat(slot=1, of=2, place=3, lifeline=7, lock=8, sockets={"acme": (9, 10), "status": (11,)})


def test_there_and_back() -> None:
    assert Seat.from_json(SEAT.to_json()) == SEAT


def test_what_is_inherited() -> None:
    """Rule 1."""
    assert SEAT.descriptors == (7, 8, 9, 10, 11)


@pytest.mark.parametrize(("place", "name"), [(0, "ca1-07f3"), (1, "ca1-07f3.1"), (12, "ca1-07f3.12")])
def test_names(place: int, name: str) -> None:
    seat = Seat(slot=0, of=2, place=place, lifeline=7, lock=8, sockets={})
    assert seat.writer("ca1-07f3") == name


@pytest.mark.parametrize("text", ["", "1", "null", "[]", "{}", '{"slot": 1, "sockets": {}}', '{"sockets": []}', "{"])
def test_what_no_supervisor_wrote(text: str) -> None:
    with pytest.raises(AcmecaError, match="not for people"):
        Seat.from_json(text)


def test_taking() -> None:
    """The sockets are the ones that listen; neither blocks, and nobody inherits them from here."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        lifeline, lock = os.pipe()
        own = os.dup(server.fileno())
        os.set_inheritable(own, True)
        seat = Seat(slot=0, of=1, place=0, lifeline=lifeline, lock=lock, sockets={"acme": (own,)})
        taken = seat.take()
        (sock,) = taken["acme"]
        with sock:
            assert sock.getsockname() == server.getsockname()
            assert not sock.getblocking()
            assert not os.get_inheritable(own)
        os.close(lifeline)
        os.close(lock)


_WORKER = """
import signal, sys, time
from acmeca.workers import lifeline
lifeline.END_SECONDS = 0.1
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop", flush=True))
line = lifeline.Lifeline(int(sys.argv[1]))
line.ready()
while True: time.sleep(0.01)
"""


@pytest.mark.parametrize("has_read", [True, False])
def test_a_worker_without_a_supervisor_ends(*, has_read: bool) -> None:
    """Lifeline, rule 2: it is asked to stop as by anybody else, and when it does not it ends all the same.

    A supervisor that is killed before it has read a sign of life leaves a connection that is reset.
    """
    ours, theirs = socket.socketpair()
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdout=subprocess.PIPE
    ) as process:
        theirs.close()
        assert ours.recv(10, 0 if has_read else socket.MSG_PEEK) == b"R"
        ours.close()
        stdout, _ = process.communicate(timeout=60)
    assert stdout == b"asked to stop\n"
    assert process.returncode == EXIT_ORPHANED
