"""Draws what ``sinfonia bench --compare-modes --json`` printed, as the paper's Figure 12.

Throughput on the left, latency on the right; a mode has one colour, and its replicated kind the
same one, dashed.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import msgspec

mpl.use("Agg")  # before pyplot looks for a screen

from matplotlib import pyplot as plt

from sinfonia.operating.measuring.benchmark import ModeFigures

SIZE_INCHES = (11, 4.6)
DOTS_PER_INCH = 110

COLOURS = {"RAM": "tab:green", "NVRAM": "tab:blue", "LOG": "tab:red"}


def main() -> int:
    """``plot_modes.py LINES PNG``."""
    if len(sys.argv) != 3:
        print("usage: plot_modes.py LINES.jsonl FIGURE.png", file=sys.stderr)
        return 2
    lines, figure = map(Path, sys.argv[1:])
    draw(
        [msgspec.json.decode(line, type=ModeFigures) for line in lines.read_bytes().splitlines()],
        figure,
    )
    return 0


def draw(points: list[ModeFigures], path: Path) -> None:
    """Put both curves into the PNG ``path``."""
    figure, (left, right) = plt.subplots(1, 2, figsize=SIZE_INCHES, layout="constrained")
    for mode in dict.fromkeys(point.mode for point in points):
        curve = [point for point in points if point.mode == mode]
        kind = mode.removesuffix("-REPL")
        style = "o-" if mode == kind else "s--"
        depths = [point.in_flight for point in curve]
        rates = [point.minitransactions_per_s for point in curve]
        left.plot(depths, rates, style, color=COLOURS[kind], label=mode)
        medians = [point.p50_us / 1e3 for point in curve]
        right.plot(depths, medians, style, color=COLOURS[kind], label=mode)
        late = [point.p99_us / 1e3 for point in curve]
        right.plot(depths, late, style[1:], color=COLOURS[kind], alpha=0.25)
    left.set_ylabel("minitransactions per second")
    left.set_title("Throughput (as Figure 12)")
    right.set_ylabel("milliseconds")
    right.set_title("Latency: median, and faint the 99th percentile")
    depths = sorted({point.in_flight for point in points})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(depths, labels=[str(depth) for depth in depths])
        axes.set_xlabel("minitransactions in flight")
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend()
    # No version of anything in the file: the same points make the same bytes.
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
