"""Redis: a Lua script does the work, and Redis' own redis-benchmark drives it.

redis-benchmark is written in C, keeps 64 connections busy and sends what it prepared, with nothing
replaced but the digits that name the keys.  Two calls into Redis do all: they are much of the cost.
"""

import csv
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.compare.peers.programs import cpu_seconds, find_programs, running, wait_until
from bench.compare.peers.work import EXPECTED, FOUND, ITEMS, WORDS, WRITTEN
from sinfonia.errors import ConfigError
from sinfonia.operating.local_cluster import LOOPBACK, free_ports

SCRIPT = """
local found = redis.call('MGET', unpack(KEYS, 1, 6))
if found[1] ~= ARGV[1] or found[2] ~= ARGV[1] or found[3] ~= ARGV[1] then
    return redis.error_reply('a compare failed')
end
redis.call('MSET', KEYS[7], ARGV[2], KEYS[8], ARGV[2], KEYS[9], ARGV[2])
return {found[4], found[5], found[6]}
"""

# redis-benchmark writes the numbers of keys in so many digits.
FILL_SCRIPT = """
for i = 0, tonumber(ARGV[3]) - 1 do
    local digits = string.format('%012d', i)
    redis.call('SET', 'c' .. digits, ARGV[1])
    redis.call('SET', 'r' .. digits, ARGV[2])
end
return 'filled'
"""

_DIGITS = "__rand_int__"
_KEYS = [*["c" + _DIGITS] * ITEMS, *["r" + _DIGITS] * ITEMS, *["w" + _DIGITS] * ITEMS]

# Without persistence, and with a sync of the log before every answer.
WITHOUT_PERSISTENCE = ("--save", "", "--appendonly", "no")
ALWAYS_SYNCED = (
    *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
    *("--auto-aof-rewrite-percentage", "0"),
)

# Beyond the time that it should take.
PATIENCE = 60.0

_MICROSECONDS_PER_MS = 1e3


class Driven(NamedTuple):
    """What a run of a load generator says; CPU times in microseconds for each step."""

    per_s: float
    p50_us: float
    p99_us: float
    server_us: float
    client_us: float


class RedisServer:
    """One Redis that is filled and knows the script."""

    def __init__(self, pid: int, port: int, benchmark: str, sha: str) -> None:
        self.pid = pid
        self._port = port
        self._benchmark = benchmark
        self._sha = sha
        self._per_s = 10_000.0  # a guess; every run knows better

    def drive(self, *, clients: int, pipeline: int, seconds: float) -> Driven:
        """Keep ``pipeline`` steps under way on each of ``clients`` connections."""
        number = max(clients * pipeline, int(self._per_s * seconds))
        before = cpu_seconds(self.pid), _children_cpu()
        started = time.perf_counter()
        answer = subprocess.run(
            [
                *(self._benchmark, "-h", LOOPBACK, "-p", str(self._port), "--csv"),
                *("-c", str(clients), "-P", str(pipeline), "-n", str(number), "-r", str(WORDS)),
                *("EVALSHA", self._sha, str(len(_KEYS)), *_KEYS),
                *(EXPECTED.decode(), WRITTEN.decode()),
            ],
            capture_output=True,
            text=True,
            timeout=seconds + PATIENCE,
            check=False,
        )
        if answer.returncode or answer.stderr:
            raise ConfigError(f"redis-benchmark failed: {(answer.stderr or answer.stdout).strip()}")
        self._per_s = number / (time.perf_counter() - started)
        server, client = cpu_seconds(self.pid) - before[0], _children_cpu() - before[1]
        *_, line = csv.DictReader(answer.stdout.splitlines())
        return Driven(
            float(line["rps"]),
            float(line["p50_latency_ms"]) * _MICROSECONDS_PER_MS,
            float(line["p99_latency_ms"]) * _MICROSECONDS_PER_MS,
            server / number * 1e6,
            client / number * 1e6,
        )


@contextmanager
def running_redis(directory: Path, *options: str) -> Iterator[RedisServer]:
    """A Redis with ``options``, its files in ``directory``.  Raises ConfigError."""
    server, benchmark, cli = find_programs("redis-server", "redis-benchmark", "redis-cli")
    [port] = free_ports(1)
    directory.mkdir()
    log_file = directory / "log"
    command = [server, "--bind", LOOPBACK, "--port", str(port), "--dir", str(directory), *options]
    ask = [cli, "-h", LOOPBACK, "-p", str(port)]
    with running(command, log_file=log_file) as process:
        wait_until(lambda: _say([*ask, "PING"]) == "PONG", process, log_file)
        values = (EXPECTED.decode(), FOUND.decode(), str(WORDS))
        if _say([*ask, "EVAL", FILL_SCRIPT, "0", *values]) != "filled":
            raise ConfigError(f"Redis would not take its data; see `{' '.join(ask)}`")
        sha = _say([*ask, "SCRIPT", "LOAD", SCRIPT])
        redis = RedisServer(process.pid, port, benchmark, sha)
        _check(ask, sha)
        yield redis


def _check(ask: list[str], sha: str) -> None:
    """The script does what it should, and says when a compare fails."""
    keys = [key.replace(_DIGITS, f"{0:012d}") for key in _KEYS]
    call = [*ask, "EVALSHA", sha, str(len(keys)), *keys]
    if _say([*call, EXPECTED.decode(), WRITTEN.decode()]).split("\n") != [FOUND.decode()] * ITEMS:
        raise ConfigError("Redis does not do the work that is to be compared")
    if "a compare failed" not in _say([*call, "another", WRITTEN.decode()]):
        raise ConfigError("Redis does not compare")


def _say(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return (done.stdout + done.stderr).strip()


def _children_cpu() -> float:
    """Processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
