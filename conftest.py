"""Tests interrupt what they start, so what they start must not have been told to ignore that.

Whoever runs the tests in the background of a shell hands down an ignored SIGINT.
"""

import signal


def pytest_configure() -> None:
    """Before any test, and in each worker."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
