"""Draws what ``python -m bench.scale`` printed, as the paper's Figures 14 and 15.

Figure 14 on the left, where a minitransaction touches few memory nodes; Figure 15 on the right,
where it touches all of them.  Both on the same axes, so that neither flatters.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import msgspec

mpl.use("Agg")  # before pyplot looks for a screen

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.scale.experiment import Point

SIZE_INCHES = (11, 4.6)
DOTS_PER_INCH = 110

LEFT = {"1": "spread 1 (one phase)", "2": "spread 2"}
RIGHT = {"all": "one compare-and-swap at each memory node", "all-16": "16 compare-and-swaps"}


def main() -> int:
    """``plot_scalability.py LINES PNG``."""
    if len(sys.argv) != 3:
        print("usage: plot_scalability.py LINES.jsonl FIGURE.png", file=sys.stderr)
        return 2
    lines, figure = map(Path, sys.argv[1:])
    _, *points = lines.read_bytes().splitlines()
    draw([msgspec.json.decode(point, type=Point) for point in points], figure)
    return 0


def draw(points: list[Point], path: Path) -> None:
    """Put both figures into the PNG ``path``."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=SIZE_INCHES, sharex=True, sharey=True, layout="constrained"
    )
    _curves(left, points, LEFT)
    left.set_title("Few memory nodes in each minitransaction (as Figure 14)")
    left.set_ylabel("minitransactions per virtual second")
    _curves(right, points, RIGHT)
    right.set_title("All memory nodes in each minitransaction (as Figure 15)")
    sizes = sorted({point.memory_nodes for point in points})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, labels=[str(size) for size in sizes])
        axes.set_xlabel("memory nodes (and as many application nodes)")
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend(loc="upper left")
    # No version of anything in the file: the same points make the same bytes.
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    plt.close(figure)


def _curves(axes: Axes, points: list[Point], loads: dict[str, str]) -> None:
    in_proportion: str | None = "in proportion to the size"
    for load, label in loads.items():
        curve = [point for point in points if point.load == load]
        if not curve:
            continue
        sizes = [point.memory_nodes for point in curve]
        [line] = axes.plot(
            sizes, [point.minitransactions_per_s for point in curve], marker="o", label=label
        )
        base = curve[0]
        ideal = [base.minitransactions_per_s * size / base.memory_nodes for size in sizes]
        axes.plot(sizes, ideal, ":", color=line.get_color(), alpha=0.5, label=in_proportion)
        in_proportion = None  # once in the legend is enough


if __name__ == "__main__":
    sys.exit(main())
