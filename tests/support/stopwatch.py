"""How long something takes at its best, in CPU time of this thread: neighbours and one garbage collection do not count."""

import math
import sys
import time
from collections.abc import Callable


def takes_less_than(seconds: float, action: Callable[[], object], *, runs: int = 3) -> bool:
    """Whether the fastest of `runs` does. What `action` raises is not caught.

    Under a tracer, as coverage has one, all Python code is slower by a multiple, so that ten times as long is allowed.
    """
    limit = seconds if sys.gettrace() is None else 10 * seconds
    best = math.inf
    for _ in range(runs):
        start = time.thread_time()
        action()
        best = min(best, time.thread_time() - start)
        if best < limit:
            return True
    return False
