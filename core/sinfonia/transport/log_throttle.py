"""Each kind of protocol error is logged once, then ever more rarely: a peer cannot fill the log."""

import logging
from collections import Counter

# A line in the log for the first of a kind, and then for every so many.
LOG_EVERY = 1000

# Kinds beyond which all are counted as one: they may be of the sender's making.
KINDS_MAX = 64

# What a line quotes of a message.
QUOTED_CHARACTERS_MAX = 200


class LogThrottle:
    """Lines in the log that a peer can cause as often as it likes."""

    def __init__(self, log: logging.Logger) -> None:
        self.times: Counter[str] = Counter()
        self._log = log

    def warn(self, kind: str, detail: object) -> None:
        """``kind`` has happened again; ``detail`` is quoted, whatever it contains, in one line."""
        self._say(logging.WARNING, kind, detail)

    def note(self, kind: str, detail: object) -> None:
        """As ``warn``, of what is no reason to worry."""
        self._say(logging.INFO, kind, detail)

    def _say(self, level: int, kind: str, detail: object) -> None:
        if kind not in self.times and len(self.times) >= KINDS_MAX:
            kind = "more"
        times = self.times[kind] = self.times[kind] + 1
        if times % LOG_EVERY == 1:
            self._log.log(
                level, "%s times=%d detail=%r", kind, times, str(detail)[:QUOTED_CHARACTERS_MAX]
            )
