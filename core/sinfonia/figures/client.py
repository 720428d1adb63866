"""The figures of an application program's client."""

from sinfonia.figures.figure import CLIENTS, counter
from sinfonia.figures.tables import FigureTable, register

EXECUTED = counter(
    "executed",
    "sinfonia_client_executed_total",
    CLIENTS,
    "Minitransactions whose outcome became known.",
)

RETRIED = counter(
    "retried",
    "sinfonia_client_retried_total",
    CLIENTS,
    "Busy locks met, and tried again.",
)

RESENT = counter(
    "resent",
    "sinfonia_client_resent_total",
    CLIENTS,
    "Requests sent again because no reply came.",
)

UNKNOWN = counter(
    "unknown",
    "sinfonia_client_unknown_total",
    CLIENTS,
    "Minitransactions whose outcome was left unknown.",
)

CLIENT = register(
    FigureTable(
        "core",
        "Application programs, with `sinfonia.metrics.client_collector`",
        EXECUTED,
        RETRIED,
        RESENT,
        UNKNOWN,
    )
)
