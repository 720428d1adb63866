"""What holds for all tests: they may interrupt what they start, and two workers end together."""

import signal

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Tests here share no fixture that is dear, so each may run in any worker.
INDEPENDENT = "core/tests/simulation/"


def pytest_configure() -> None:
    """Let SIGINT through, before any test and in each worker.

    A shell that runs the tests in the background hands down an ignored SIGINT, and processes that
    tests start would inherit it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> "_Scheduler | None":
    """With ``--dist loadfile``, tests of one file stay together, but for independent ones."""
    if config.getvalue("dist") != "loadfile":
        return None
    return _Scheduler(config, log)


class _Scheduler(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(INDEPENDENT) else super()._split_scope(nodeid)
