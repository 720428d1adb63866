"""How long no client is served when a primary is killed: from kill -9 to the first success.

Counted is the first write that began after the kill, so that no answer that was already on its way
passes for a fail-over.  Between two trials the killed member comes back and catches up.
"""

import signal
import statistics
import time
from pathlib import Path

import click
import msgspec

from bench.steady_load import SteadyClient, members, private_cluster

# A client writes for so long before the primary is killed.
LOAD_SECONDS = 0.3


@click.command()
@click.option("--mode", default="LOG-REPL", show_default=True)
@click.option("--trials", type=click.IntRange(1), default=10, show_default=True)
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(mode: str, trials: int, directory: Path | None) -> None:
    """Kill a primary under load, again and again; one JSON object, in seconds."""
    gaps = []
    with (
        private_cluster(mode, directory=directory, replicas=1) as cluster,
        SteadyClient(cluster) as client,
    ):
        for _ in range(trials):
            time.sleep(LOAD_SECONDS)
            primary, _ = members(cluster)
            process = cluster.process(primary)
            assert process is not None
            killed_at = time.monotonic()
            process.signal(signal.SIGKILL)
            gaps.append(client.first_success_after(killed_at) - killed_at)
            cluster.start([primary])
    figures = {
        "mode": mode,
        "trials": trials,
        "min_s": round(min(gaps), 3),
        "median_s": round(statistics.median(gaps), 3),
        "max_s": round(max(gaps), 3),
        "failed_calls": client.failed,
    }
    click.echo(msgspec.json.encode(figures))


if __name__ == "__main__":
    main()
