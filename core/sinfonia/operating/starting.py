"""A start brings up what does not run, waits until it serves, and ends what it began if it fails.

A replica that never lived is started when everything else serves: started earlier, it might come
before the first member of a memory node that never lived either, and be its primary.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sinfonia.client.seed import ASK_EVERY
from sinfonia.cluster_keys import operator_keys
from sinfonia.config import ProcessDescription
from sinfonia.memnode.settings import has_disk
from sinfonia.operating.handle import STOP_PATIENCE
from sinfonia.operating.observer import Observer
from sinfonia.operating.process_table import ProcessTable
from sinfonia.operating.processes import ProcessIdentity, end, uninterrupted
from sinfonia.operating.refusals import StartFailed
from sinfonia.operating.sights import OnSight, copy_progress, is_ready
from sinfonia.storage.data_directory import IDENTITY_FILE

# After one process has refused to start the others are waited for so long: some may never serve
# without it, and a replica in its place does after a fail-over.
OTHERS_PATIENCE = 20.0

# How long one question to processes that are starting may take.
STATUS_TIMEOUT = 0.5

OnServing = Callable[[str], None]

# What is wrong with each process that does not serve, by name.
Failures = dict[str, str]


class Start:
    """One start of processes of a cluster directory.

    ``on_serving`` is called for each process that serves, ``on_sight`` with every look.
    ``timeout``: seconds without any progress after which a process has failed.
    ``go_on``: leave running what can be started when a process refuses to start, or does not serve.
    """

    def __init__(
        self,
        table: ProcessTable,
        *,
        timeout: float,
        on_serving: OnServing,
        on_sight: OnSight,
        go_on: bool,
    ) -> None:
        self._table = table
        self._timeout = timeout
        self._on_serving = on_serving
        self._on_sight = on_sight
        self._go_on = go_on
        self._started: dict[str, ProcessIdentity] = {}

    def run(self, names: Sequence[str]) -> list[str]:
        """Start ``names`` as far as they do not run; returns what was started.

        Raises StartFailed, and then no process is left that this started, unless it is to go on.
        """
        missing = [name for name in names if self._table.find(name) is None]
        self._table.refuse_rivals(missing)
        try:
            failed = self._start_in_waves(missing)
        except BaseException:
            end(list(self._started.values()), patience=STOP_PATIENCE)
            for name in self._started:
                self._table.forget(name)
            raise
        if failed:
            raise StartFailed(self._what_failed(failed))
        return list(self._started)

    def _start_in_waves(self, missing: Sequence[str]) -> Failures:
        failed: Failures = {}
        for wave in self._waves(missing):
            failed |= self._too_early(wave, failed)
            wanted = [name for name in wave if name not in failed]
            for name in wanted:
                with uninterrupted():
                    self._started[name] = self._table.spawn(name)
            failed |= self._wait_until_ready(wanted)
            if failed and not self._go_on:
                raise StartFailed(next(iter(failed.values())))
        return failed

    def _waves(self, missing: Sequence[str]) -> Iterator[list[str]]:
        """``missing`` in the order in which to start them."""
        replicas = [each for node in self._table.config.memory_node for each in node.replica]
        new = {each.name for each in replicas if not _has_lived(each)}
        yield [name for name in missing if name not in new]
        yield [name for name in missing if name in new]

    def _too_early(self, wave: Sequence[str], failed: Mapping[str, str]) -> Failures:
        """Replicas that never lived may not be the first members of their memory nodes to come."""
        return {
            name: f"{name} was not started: it has no data, and {first.name} must come first"
            for first, *others in (node.members for node in self._table.config.memory_node)
            for name in (each.name for each in others)
            if name in wave and first.name in failed
        }

    def _wait_until_ready(self, names: Sequence[str]) -> Failures:
        """Until all of ``names`` serve, or are in sync; what is wrong with those that do not.

        Unless the start is to go on, until one of them has ended.
        """
        table, waiting = self._table, list(names)
        failed: Failures = {}
        progress: dict[str, tuple[object, ...]] = {}
        deadline = time.monotonic() + self._timeout
        endpoints = {each.name: each.endpoint for each in table.config.processes}
        places = [endpoints[name] for name in table.running] if waiting else []
        with Observer(places, operator_keys(table.config), follow=False) as observer:
            while waiting:
                for name in [name for name in waiting if not self._started[name].running]:
                    waiting.remove(name)
                    table.forget(name)
                    failed[name] = f"{name} did not start: {table.last_words(name)}"
                    deadline = min(deadline, time.monotonic() + OTHERS_PATIENCE)
                if failed and not self._go_on:
                    return failed
                sight = observer.look(STATUS_TIMEOUT)
                self._on_sight(sight)
                for name in list(waiting):
                    if is_ready(sight, endpoints[name]):
                        waiting.remove(name)
                        self._on_serving(name)
                now = {name: copy_progress(sight, endpoints[name]) for name in waiting}
                if now != progress and not failed:
                    # As long as a copy grows, however much there is to copy.
                    progress, deadline = now, time.monotonic() + self._timeout
                elif time.monotonic() >= deadline:
                    break
                time.sleep(ASK_EVERY)
        late = {name: f"{name} does not serve yet: {table.last_words(name)}" for name in waiting}
        return failed | late

    def _what_failed(self, failed: Mapping[str, str]) -> str:
        """What is wrong with each, what to do, and what runs all the same."""
        lines = [said + self._advice(name) for name, said in failed.items()]
        runs = [name for name in self._table.running if name not in failed]
        return "\n".join([*lines, f"Running: {', '.join(runs) or 'nothing'}."])

    def _advice(self, name: str) -> str:
        """How to go on without the data of a member that has ended."""
        directory = self._table.directory
        for node in self._table.config.memory_node:
            member = next((each for each in node.members if each.name == name), None)
            if member is None or not has_disk(node.mode):
                continue
            if self._table.find(name) is not None or not _has_lived(member):
                continue
            if node.replica:
                return (
                    f"\n  If its data cannot be mended: `sinfonia replica remove {directory} "
                    f"{node.node} {name}`, and then `sinfonia replica add {directory} "
                    f"{node.node}` makes another copy."
                )
            return (
                "\n  It is the only copy: if it cannot be mended, `sinfonia restore` makes a "
                "cluster from a backup."
            )
        return ""


def _has_lived(process: ProcessDescription) -> bool:
    return (Path(process.data_directory) / IDENTITY_FILE).exists()
