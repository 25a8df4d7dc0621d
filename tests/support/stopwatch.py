"""How long something takes at its best, in CPU time of this thread: neighbours and one garbage collection do not count."""

import math
import time
from collections.abc import Callable


def fastest(action: Callable[[], object], *, runs: int = 3, limit: float = 0.0) -> float:
    """Seconds of the fastest of `runs`, or of the first that is under `limit`. What `action` raises is not caught."""
    best = math.inf
    for _ in range(runs):
        start = time.thread_time()
        action()
        best = min(best, time.thread_time() - start)
        if best < limit:
            break
    return best
