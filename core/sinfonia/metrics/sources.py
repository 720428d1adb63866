"""A metric says where its samples come from; nothing else turns figures into samples.

A process publishes its figures in a snapshot (status_snapshot.py).  The kinds of sources here are
all the ways in which a figure becomes samples with labels.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Samples

from sinfonia.figures.figure import Figure, FigureFamily, Kind
from sinfonia.figures.tables import FigureTable, Row
from sinfonia.status_snapshot import StatusSnapshot

LabelValues = tuple[str, ...]
Sample = tuple[LabelValues, float]


class OneFigure(NamedTuple):
    """One figure of the status."""

    figure: Figure[int] | Figure[float] | Figure[str]

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        value = self.figure.read(snapshot.figures)
        if isinstance(value, int | float):
            yield (), value


class Family(NamedTuple):
    """All figures of a family; what a figure is about is the label's value."""

    family: FigureFamily[int] | FigureFamily[float]

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        for about, value in self.family.read(snapshot.figures):
            yield (about,), value


class OneOf(NamedTuple):
    """A figure that is one of its words: 1 for that word, 0 for the others."""

    figure: Figure[int] | Figure[float] | Figure[str]

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        value = self.figure.read(snapshot.figures)
        if value is not None:
            for word in self.figure.words:
                yield (word,), float(word == value)


class State(NamedTuple):
    """The state is one of these words: 1 for that word, 0 for the others."""

    words: tuple[str, ...]

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        for word in self.words:
            yield (word,), float(word == snapshot.state)


class Words(NamedTuple):
    """Figures that are words, as labels of a constant 1."""

    figures: tuple[Figure[str], ...]

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        yield tuple(figure.read(snapshot.figures) or "" for figure in self.figures), 1.0


class LoadCount(NamedTuple):
    """A count of the load, by class tag."""

    position: int

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        for tag, counts in snapshot.load.items():
            yield (tag,), counts[self.position]


class Times(NamedTuple):
    """A histogram of durations."""

    name: str

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        del snapshot  # its samples are more than one number each; see _add
        return iter(())


class Elsewhere(NamedTuple):
    """Known only at the moment of the scrape; its collector adds it."""

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        del snapshot
        return iter(())


Source = OneFigure | Family | OneOf | State | Words | LoadCount | Times | Elsewhere


class Metric(NamedTuple):
    """One line of the table; ``labels`` beside those that all metrics of the process have."""

    name: str
    kind: Kind
    help: str
    source: Source
    labels: tuple[str, ...] = ()


def metrics_of(table: FigureTable) -> tuple[Metric, ...]:
    """The figures of ``table`` that are metrics of their own."""
    return tuple(metric_of(row) for row in table.rows if row.metric)


def metric_of(row: Row) -> Metric:
    """The metric that shows a figure, or a family of figures."""
    if isinstance(row, FigureFamily):
        return Metric(row.metric, row.kind, row.help, Family(row), (row.label,))
    if row.words:
        return Metric(row.metric, Kind.GAUGE, row.help, OneOf(row), (row.name,))
    assert row.kind is not Kind.WORD, f"{row.name} may be any text, which is no metric of its own"
    return Metric(row.metric, row.kind, row.help, OneFigure(row))


# --- what is said ------------------------------------------------------------------------------


def families(
    metrics: Iterable[Metric], snapshot: StatusSnapshot, constant: Iterable[tuple[str, str]] = ()
) -> Iterator[Samples]:
    """``metrics`` as of ``snapshot``, as far as it tells them; all samples get ``constant``."""
    names = tuple(name for name, _ in constant)
    values = tuple(value for _, value in constant)
    for metric in metrics:
        family = _family(metric, (*names, *metric.labels))
        _add(family, metric, snapshot, values)
        if family.samples:
            yield family


def _family(metric: Metric, labels: tuple[str, ...]) -> Samples:
    if metric.kind is Kind.COUNTER:
        return CounterMetricFamily(metric.name, metric.help, labels=labels)
    if metric.kind is Kind.HISTOGRAM:
        return HistogramMetricFamily(metric.name, metric.help, labels=labels)
    return GaugeMetricFamily(metric.name, metric.help, labels=labels)


def _add(family: Samples, metric: Metric, snapshot: StatusSnapshot, values: LabelValues) -> None:
    if isinstance(family, HistogramMetricFamily):
        assert isinstance(metric.source, Times)
        histogram = snapshot.histograms.get(metric.source.name)
        if histogram is not None:
            buckets = [(_bound(bound), count) for bound, count in histogram.cumulative]
            family.add_metric(values, buckets, histogram.total)
        return
    assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
    for own, value in metric.source.samples(snapshot):
        family.add_metric([*values, *own], value)


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else str(seconds)
