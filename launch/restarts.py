"""How often something may be started again, and how long to wait before."""

import time

_LONGEST_DELAY = 30.0  # Seconds.
_HEALTHY_AFTER = 20.0  # Seconds of life after which the next end counts as the first again.


class Restarts:
    """Counts the restarts of one thing; the wait doubles while it dies soon after its start.

    Args:
      limit: restarts that are allowed.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.count = 0
        self._early_ends = 0
        self._started = time.monotonic()

    def next_delay(self) -> float | None:
        """Counts one more restart, to be called when the thing has ended.

        Returns:
          Seconds to wait before it is started: 1, 2, 4 ... 30; None: no restart is left.
        """
        if self.count >= self.limit:
            return None
        now = time.monotonic()
        self._early_ends = 0 if now - self._started > _HEALTHY_AFTER else self._early_ends + 1
        delay = min(2.0 ** max(0, self._early_ends - 1), _LONGEST_DELAY)
        self.count += 1
        self._started = now + delay
        return delay

    def __str__(self) -> str:
        return f"restart {self.count} of {self.limit}"
