"""The figures of every process that listens: what became of messages that came in and went out."""

from typing import Protocol

from sinfonia.figures.figure import MANAGERS, MEMBERS, Value, counter
from sinfonia.figures.tables import FigureTable, Given, register

UNDELIVERED = counter(
    "undelivered",
    "sinfonia_undelivered_replies_total",
    MEMBERS | MANAGERS,
    "Batches of replies whose reader was gone or did not read.",
    when="monitoring asks",
)

MALFORMED = counter(
    "malformed",
    "sinfonia_malformed_messages_total",
    MEMBERS | MANAGERS,
    "Messages that made no sense and were dropped.",
    when="monitoring asks",
)

REFUSED = counter(
    "refused",
    "sinfonia_refused_total",
    MEMBERS | MANAGERS,
    "Handshakes and messages refused, their senders not being allowed them.",
    when="monitoring asks",
)

ADMISSION = register(
    FigureTable(
        "core",
        "Every process",
        UNDELIVERED,
        MALFORMED,
        REFUSED,
    )
)


class Listens(Protocol):
    """What a process that listens counts; see Admission."""

    @property
    def undelivered(self) -> int: ...
    @property
    def malformed(self) -> int: ...
    @property
    def refused(self) -> int: ...


def listening_figures(admission: Listens) -> dict[str, Value]:
    """What became of messages at one process."""
    figures = Given(ADMISSION)
    figures[UNDELIVERED] = admission.undelivered
    figures[MALFORMED] = admission.malformed
    figures[REFUSED] = admission.refused
    return figures.values
