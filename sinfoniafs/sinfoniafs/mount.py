"""A mount is announced when it serves, and ends by giving everything back.

``serve`` opens the volume, mounts it and answers the kernel until the volume is unmounted or the
process is told to end (SIGTERM, SIGINT, SIGHUP).  Then ``serve`` unmounts, and only then closes the
volume: no request may meet a closed volume, and the space that the session had reserved goes back.
At SIGUSR1 the process writes its client statistics to the log.

``in_background`` serves in a child process.  The parent returns only when the kernel has made
contact with the child, so that a script may use the mount on its next line.  If the child ends
before that, the parent fails with the child's error message.
"""

import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from sinfonia.client.api import ClusterApi
from sinfonia.errors import SinfoniaError
from sinfoniafs import mounts
from sinfoniafs.errors import FileSystemError
from sinfoniafs.libfuse import Libfuse, reach_libfuse
from sinfoniafs.mounts import MountError
from sinfoniafs.operations import VolumeOperations
from sinfoniafs.patience import TIMEOUT_S
from sinfoniafs.session import SESSION_TIMES, SessionTimes
from sinfoniafs.volume.mounting import close_volume, keep_alive, open_volume
from sinfoniafs.volume.volume import Volume

log = logging.getLogger(__name__)

# After a signal, requests under way have this long to finish.  Requests that still wait, for a
# memory node that is down, are given up then, and their callers get an error.
REQUESTS_GRACE_SECONDS = 5.0
# Giving back space and the session takes a few minitransactions.  If the cluster is unreachable,
# fsck reclaims them later.
CLOSE_SECONDS_MAX = 10.0

# The kernel reads ahead 128 KiB at a time unless told otherwise.  With a round trip to a memory
# node for each, 1 MiB (the most that FUSE asks for at once) is 2.5 times as fast.
READ_AHEAD_KIB = 1024

# Background work that failed is tried again after this pause.
PAUSE_AFTER_FAILURE_SECONDS = 1.0

# The kernel's limit to the pages of a request (since Linux 6.13), 256 unless raised.  1 MiB that
# begins in the middle of a page touches 257.
PAGES_LIMIT = Path("/proc/sys/fs/fuse/max_pages_limit")
PAGES_NEEDED = 257

LOG_FORMAT = "%(asctime)s %(levelname)s pid=%(process)d %(name)s %(message)s"


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What to mount, and where; ``options`` are for the kernel, as in ``mount -o``.

    ``mountpoint`` is resolved: absolute and without symbolic links.  ``timeout`` (seconds) is how
    long a request may wait for the cluster; ``times`` are those of the session.
    """

    source: str
    volume: str
    mountpoint: Path
    options: frozenset[str] = frozenset()
    timeout: float = TIMEOUT_S
    times: SessionTimes = SESSION_TIMES


async def serve(
    cluster: ClusterApi, request: MountRequest, *, on_serving: Callable[[], None]
) -> None:
    """Mount ``request.volume`` and answer the kernel until the mount ends.

    Raises MountError if the kernel refuses the mount, and FormatError if there is no such volume.
    """
    mountpoint = str(request.mountpoint)
    volume = await open_volume(
        cluster,
        name=request.volume,
        mountpoint=mountpoint,
        timeout=request.timeout,
    )
    # Signals are caught until all is given back: a second one must not cut off the closing.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        try:
            await _serve_volume(cluster, volume, request, signals, on_serving)
        finally:
            # Shielded: a mount that is cancelled gives back what it holds, too.
            with trio.move_on_after(CLOSE_SECONDS_MAX, shield=True) as closing:
                await close_volume(volume)
            if closing.cancelled_caught:
                log.warning("session left behind: the cluster did not answer; fsck reclaims it")


async def _serve_volume(
    cluster: ClusterApi,
    volume: Volume,
    request: MountRequest,
    signals: AsyncIterator[int],
    on_serving: Callable[[], None],
) -> None:
    contact = trio.Event()
    operations = VolumeOperations(
        volume,
        on_contact=contact.set,
        timeout=request.timeout,
        libfuse=_libfuse(),
        mountpoint=request.mountpoint,
    )
    with (
        mounts.recorded(request.mountpoint, request.source, request.volume),
        _mounted(operations, request),
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_announce, contact, request, on_serving)
            nursery.start_soon(_end_on_signal, signals, operations)
            nursery.start_soon(_for_good, partial(_tell_on_signal, cluster))
            nursery.start_soon(_for_good, partial(keep_alive, volume, request.times))
            nursery.start_soon(_for_good, operations.interrupts.watch)
            nursery.start_soon(_for_good, operations.places.look_up)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()


async def _for_good(work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work`` until cancelled, again and again if it fails.

    A bug in background work must not end the mount: programs would go on in the directory below.
    """
    while True:
        try:
            await work()
        except (SinfoniaError, FileSystemError) as error:
            log.warning("background work failed=%s: %s", type(error).__name__, error)
        except Exception:  # the boundary of a task: see above
            log.exception("background work failed unexpectedly; it is begun again")
        await trio.sleep(PAUSE_AFTER_FAILURE_SECONDS)


async def _announce(
    contact: trio.Event, request: MountRequest, on_serving: Callable[[], None]
) -> None:
    await contact.wait()
    _read_ahead(request.mountpoint)
    on_serving()


def _read_ahead(mountpoint: Path) -> None:
    mount = mounts.mount_at(mountpoint)
    if mount is not None:
        with contextlib.suppress(OSError):  # only root may tune, and not in every container
            tunable = Path("/sys/class/bdi", mount.device, "read_ahead_kb")
            tunable.write_text(str(READ_AHEAD_KIB), encoding="ascii")


async def _tell_on_signal(cluster: ClusterApi) -> None:
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async for _ in signals:
            figures = asdict(cluster.statistics)
            log.info("statistics %s", " ".join(f"{key}={figures[key]}" for key in figures))


async def _end_on_signal(signals: AsyncIterator[int], operations: VolumeOperations) -> None:
    number = await anext(signals)
    log.info("ending on %s", signal.Signals(number).name)
    pyfuse3.terminate()
    while True:
        await trio.sleep(REQUESTS_GRACE_SECONDS)
        operations.abandon_all()


@functools.cache
def _libfuse() -> Libfuse | None:
    """Reached once in the life of the process, before the first mount."""
    return reach_libfuse(Path(pyfuse3.__file__))


def _allow_whole_writes() -> None:
    """Let a write of 1 MiB that is not aligned to pages, and touches 257, be one request."""
    try:
        if int(PAGES_LIMIT.read_text(encoding="ascii")) < PAGES_NEEDED:
            PAGES_LIMIT.write_text(str(PAGES_NEEDED), encoding="ascii")
    except OSError as error:  # older than Linux 6.13, or not root on the host
        log.warning("writes that touch more than 256 pages are not atomic: %s", error)


@contextlib.contextmanager
def _mounted(operations: VolumeOperations, request: MountRequest) -> Iterator[None]:
    options = set(request.options) | {
        "default_permissions",
        "subtype=sinfoniafs",
        f"fsname={request.source}",
    }
    _allow_whole_writes()
    with _captured_stderr() as complaint:
        try:
            pyfuse3.init(operations, str(request.mountpoint), options)
        except RuntimeError as error:
            raise MountError(
                f"the kernel does not let this process mount at {request.mountpoint}:"
                f" {complaint() or error}; mounting needs root, or CAP_SYS_ADMIN in a container"
            ) from error
    try:
        yield
    except BaseException:
        # Programs must not find the directory below: they get ENOTCONN instead, as if this process
        # had been killed, until the mount is removed.
        log.exception("the mount at %s answers no more: unmount it", request.mountpoint)
        pyfuse3.close(unmount=False)
        raise
    pyfuse3.close(unmount=True)


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Catch what libfuse writes to file descriptor 2: libfuse reports errors in no other way."""
    saved = os.dup(2)
    caught = os.memfd_create("stderr")
    os.dup2(caught, 2)
    try:
        yield lambda: os.pread(caught, 4096, 0).decode(errors="replace").strip()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(caught)


def in_background(run: Callable[[Callable[[], None]], None], *, log_file: Path) -> None:
    """Call ``run(on_serving)`` in a process of its own and return when it serves.

    ``run`` must call ``on_serving`` once.  If the child ends before that, raises MountError with
    the child's own words.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_detached(run, writing, log_file)
    os.close(writing)
    try:
        with open(reading, encoding="utf-8") as pipe:  # noqa: PTH123 - a descriptor
            verdict = pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    if verdict != SERVING:
        os.waitpid(child, 0)
        raise MountError(verdict or f"the mount process ended unexpectedly: see {log_file}")


# What the child tells its parent when all is well; anything else is an error message.
SERVING = "serving"


def _run_detached(run: Callable[[Callable[[], None]], None], report: int, log_file: Path) -> None:
    """The life of the child process; never returns."""
    os.setsid()
    os.chdir("/")
    _redirect_output(log_file)
    logging.basicConfig(format=LOG_FORMAT, level=logging.INFO, stream=sys.stderr, force=True)

    status = 0
    with open(report, "w", encoding="utf-8") as parent:

        def tell_parent(verdict: str) -> None:
            if parent.closed:
                return
            try:
                parent.write(verdict)
                parent.close()
            except BrokenPipeError:  # the parent was killed: its caller takes this for not mounted
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            run(lambda: tell_parent(SERVING))
        except Exception as error:  # the boundary of the process: report, log and end
            status = 1
            log.exception("the mount has ended")
            tell_parent(f"{error}")
        finally:
            logging.shutdown()
            os._exit(status)


def _redirect_output(log_file: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)
