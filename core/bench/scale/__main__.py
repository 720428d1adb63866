"""``python -m bench.scale``: throughput by size of the system, as lines of JSON.

The first line says what everything costs and the seed; each further line is one point.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from bench.scale.costs import RECORDED, Costs
from bench.scale.experiment import LOADS, Point, run
from bench.scale.measure import measure

SIZES = (2, 4, 8, 16, 32, 64, 128, 256)


class Header(msgspec.Struct, frozen=True):
    """What the points that follow were found with."""

    costs: Costs
    seed: int


def main() -> int:
    """Run the experiments that the command line asks for."""
    arguments = _arguments()
    try:
        costs = _costs(arguments)
    except (OSError, msgspec.MsgspecError) as error:
        print(f"cannot read costs from {arguments.costs}: {error}", file=sys.stderr)
        return 1
    _print(Header(costs, arguments.seed))
    for load in arguments.load:
        points: list[Point] = []
        for size in sorted(arguments.memory_nodes):
            point = run(load, memory_nodes=size, costs=costs, seed=arguments.seed)
            if point is not None:
                points.append(point)
                _print(point.relative_to(points[0]))
    return 0


def _costs(arguments: argparse.Namespace) -> Costs:
    if arguments.measure:
        return measure()
    if arguments.costs is None:
        return RECORDED
    with arguments.costs.open("rb") as lines:
        return msgspec.json.decode(lines.readline(), type=Header).costs


def _print(line: msgspec.Struct) -> None:
    print(msgspec.json.encode(line).decode(), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="throughput by size of the system, simulated")
    parser.add_argument(
        "--memory-nodes",
        type=_size,
        nargs="+",
        default=SIZES,
        metavar="N",
        help=f"sizes, each with as many application nodes (default: {' '.join(map(str, SIZES))})",
    )
    parser.add_argument(
        "--load",
        nargs="+",
        choices=LOADS,
        default=list(LOADS),
        help="memory nodes that a minitransaction touches; all-16: with 16 compare-and-swaps and "
        "not one at each (default: every one)",
    )
    parser.add_argument("--seed", type=int, default=1, help="(default: 1)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--measure", action="store_true", help="find out first what things cost on this machine"
    )
    source.add_argument(
        "--costs",
        type=Path,
        metavar="FILE",
        help="what they cost is in its first line, as printed before (default: recorded costs)",
    )
    return parser.parse_args()


def _size(text: str) -> int:
    size = int(text) if text.isdecimal() else 0
    if not 1 <= size <= SIZES[-1]:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to {SIZES[-1]}")
    return size


if __name__ == "__main__":
    sys.exit(main())
