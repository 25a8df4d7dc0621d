"""Descriptors are shared out so that no listener can use up another's."""

import resource
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from acmeca.web.limits import ConnectionLimits, raise_descriptor_limit


class TestShares:
    @given(st.integers(min_value=64, max_value=2**31))
    def test_a_reserve_is_left(self, descriptors: int) -> None:
        """Rule 1: the last descriptor is nobody's: a fourteenth of what is shared, and what the process needs itself."""
        limits = ConnectionLimits.from_descriptors(descriptors)
        left = descriptors - limits.acme - limits.status - limits.control - limits.admin
        assert left >= min(60, 60 + (descriptors - 64) // 14)
        assert min(limits.acme, limits.status, limits.control, limits.admin) >= 1

    @given(st.integers(min_value=0, max_value=70_000))
    def test_more_descriptors_are_never_fewer_connections(self, descriptors: int) -> None:
        less, more = ConnectionLimits.from_descriptors(descriptors), ConnectionLimits.from_descriptors(descriptors + 1)
        assert (less.acme, less.status, less.control) <= (more.acme, more.status, more.control)
        assert less.status <= more.status
        assert less.control <= more.control
        assert less.admin <= more.admin

    def test_figures(self) -> None:
        """The unit's, Linux's default, the test of the finding, and the upper bounds."""
        assert ConnectionLimits.from_descriptors(16_384) == ConnectionLimits(
            acme=4_096, status=8_160, control=64, admin=32
        )
        assert ConnectionLimits.from_descriptors(1_024) == ConnectionLimits(acme=320, status=480, control=64, admin=9)
        assert ConnectionLimits.from_descriptors(256) == ConnectionLimits(acme=64, status=96, control=16, admin=1)
        assert ConnectionLimits.from_descriptors(10**9) == ConnectionLimits(
            acme=4_096, status=16_384, control=64, admin=32
        )

    @given(st.integers(min_value=1_024, max_value=2**31), st.integers(min_value=1, max_value=64))
    def test_workers_share(self, descriptors: int, workers: int) -> None:
        """All of them together take no more than one process would; the control socket is one worker's."""
        limits = ConnectionLimits.from_descriptors(descriptors)
        part = limits.shared_by(workers)
        assert part.acme * workers <= limits.acme < (part.acme + 1) * workers
        assert part.status * workers <= limits.status < (part.status + 1) * workers
        assert part.control == limits.control

    def test_next_to_none(self) -> None:
        assert ConnectionLimits.from_descriptors(3) == ConnectionLimits(acme=1, status=1, control=1, admin=1)


class TestRaise:
    """In a process of its own: the limits of this one are its caller's."""

    def test_to_the_hard_limit(self) -> None:
        assert raised(soft=200, hard=1_500) == "1500 1500\n"

    def test_what_is_allowed_already(self) -> None:
        assert raised(soft=1_500, hard=1_500) == "1500 1500\n"

    def test_few_are_told(self) -> None:
        assert raised(soft=200, hard=300) == "only 300 descriptors\n300 300\n"

    def test_no_more_than_are_used(self) -> None:
        """A container may allow a milliard."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            assert 0 < raise_descriptor_limit() <= 65_536 or before[0] > 65_536
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == before[1]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


_PROGRAM = """
import logging, resource, sys
from acmeca.web.limits import raise_descriptor_limit
class Told(logging.Handler):
    def emit(self, record):
        print(record.getMessage().partition(":")[0])
logging.getLogger().addHandler(Told())
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(raise_descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def raised(*, soft: int, hard: int) -> str:
    """What a process with these limits says of them."""
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(soft), str(hard)], check=True, capture_output=True, text=True
    ).stdout
