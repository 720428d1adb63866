"""Runs that several tests need are made once, and tests that count over all of them come last."""

import os

import pytest

from sinfonia.simulation.chunks import CountedRuns

COUNTS_LAST = "test_simulation_totals.py"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stable, so that all worker processes have one order."""
    items.sort(key=lambda item: item.path.name == COUNTS_LAST)


@pytest.fixture(scope="session")
def counted_runs(tmp_path_factory: pytest.TempPathFactory) -> CountedRuns:
    """Shared by all worker processes of this test run, and by no other test run."""
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent
    shared = directory / "counted-runs"
    shared.mkdir(exist_ok=True)
    return CountedRuns(shared)
