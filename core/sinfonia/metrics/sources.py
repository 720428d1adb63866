"""A metric says where its samples come from; nothing else turns figures into samples.

A process publishes its figures in a snapshot (status_snapshot.py).  The kinds of sources here are
all the ways in which a figure becomes samples with labels.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from sinfonia.status_snapshot import StatusSnapshot

LabelValues = tuple[str, ...]
Sample = tuple[LabelValues, float]


class Kind(Enum):
    """What Prometheus calls the type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Figure(NamedTuple):
    """One figure of the status."""

    name: str

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        figure = snapshot.figures.get(self.name)
        if isinstance(figure, int | float):
            yield (), figure


class Figures(NamedTuple):
    """All figures whose names begin so; the rest of the name is the label's value."""

    prefix: str

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        for name, figure in snapshot.figures.items():
            if name.startswith(self.prefix) and isinstance(figure, int | float):
                yield (name.removeprefix(self.prefix),), figure


class OneOf(NamedTuple):
    """A figure that is one of these words, or the state: 1 for that word, 0 for the others."""

    name: str
    words: tuple[str, ...]

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        figure = snapshot.state if self.name == "state" else snapshot.figures.get(self.name)
        if figure is not None:
            for word in self.words:
                yield (word,), float(word == figure)


class Words(NamedTuple):
    """Figures that are words, as labels of a constant 1."""

    names: tuple[str, ...]

    def samples(self, snapshot: StatusSnapshot) -> Iterator[Sample]:
        yield tuple(str(snapshot.figures.get(name, "")) for name in self.names), 1.0


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


Source = Figure | Figures | OneOf | Words | LoadCount | Times | Elsewhere


class Metric(NamedTuple):
    """One line of the table; ``labels`` beside those that all metrics of the process have."""

    name: str
    kind: Kind
    help: str
    source: Source
    labels: tuple[str, ...] = ()


# --- what is said ------------------------------------------------------------------------------


def families(
    metrics: Iterable[Metric], snapshot: StatusSnapshot, constant: Iterable[tuple[str, str]] = ()
) -> Iterator[Family]:
    """``metrics`` as of ``snapshot``, as far as it tells them; all samples get ``constant``."""
    names = tuple(name for name, _ in constant)
    values = tuple(value for _, value in constant)
    for metric in metrics:
        family = _family(metric, (*names, *metric.labels))
        _add(family, metric, snapshot, values)
        if family.samples:
            yield family


def _family(metric: Metric, labels: tuple[str, ...]) -> Family:
    if metric.kind is Kind.COUNTER:
        return CounterMetricFamily(metric.name, metric.help, labels=labels)
    if metric.kind is Kind.HISTOGRAM:
        return HistogramMetricFamily(metric.name, metric.help, labels=labels)
    return GaugeMetricFamily(metric.name, metric.help, labels=labels)


def _add(family: Family, metric: Metric, snapshot: StatusSnapshot, values: LabelValues) -> None:
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
