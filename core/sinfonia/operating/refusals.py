"""Why a cluster did not do what its handle was asked to do; each error says how things are."""

from sinfonia.errors import SinfoniaError


class StartFailed(SinfoniaError):
    """A process of the cluster did not start; the message quotes its log."""


class NotRunning(SinfoniaError):
    """A process that is to be paused does not run, so there is nothing to pause."""


class NotYet(SinfoniaError):
    """What was begun goes on, but is not done within the time that it was given."""


class OperationRefused(SinfoniaError):
    """A manager will not do what an operator asked for; the message says why."""
