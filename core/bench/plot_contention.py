"""Draws what ``python -m bench.contention --json`` printed, as the paper's Figure 16.

Throughput by collision probability, a curve for each way; the band is what other rounds measured,
taken from how each stood to compare-and-swap in the same round.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import msgspec

mpl.use("Agg")  # before pyplot looks for a screen

from matplotlib import pyplot as plt

from bench.contention.figure_16 import ContentionFigures

SIZE_INCHES = (11, 4.6)
DOTS_PER_INCH = 110

LOOKS = {
    "cas": ("compare-and-swap", "s-", "tab:blue"),
    "optimistic": ("increment by optimistic retry", "^-", "tab:red"),
    "add": ("increment by add items", "o-", "tab:green"),
}


def main() -> int:
    """``plot_contention.py LINES PNG``."""
    if len(sys.argv) != 3:
        print("usage: plot_contention.py LINES.jsonl FIGURE.png", file=sys.stderr)
        return 2
    lines, figure = map(Path, sys.argv[1:])
    points = lines.read_bytes().splitlines()
    draw([msgspec.json.decode(line, type=ContentionFigures) for line in points], figure)
    return 0


def draw(points: list[ContentionFigures], path: Path) -> None:
    """Put throughput, and throughput beside compare-and-swap, into the PNG ``path``."""
    figure, (left, right) = plt.subplots(1, 2, figsize=SIZE_INCHES, layout="constrained")
    for way, (label, style, colour) in LOOKS.items():
        curve = [point for point in points if point.way == way]
        x = [point.collisions for point in curve]
        left.plot(x, [point.per_s for point in curve], style, color=colour, label=label)
        right.plot(x, [point.to_cas for point in curve], style, color=colour, label=label)
        low, high = [point.low for point in curve], [point.high for point in curve]
        right.fill_between(x, low, high, color=colour, alpha=0.15)
    left.set_ylabel("minitransactions per second")
    left.set_yscale("log")
    left.set_title("Contention (as Figure 16)")
    right.set_ylabel("times compare-and-swap")
    right.set_title("In the same round; the band is from the lowest to the highest")
    ticks = sorted({point.collisions for point in points})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axes.set_xlabel("probability that two minitransactions have an item in common")
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend()
    # No version of anything in the file: the same points make the same bytes.
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
