"""/metrics: the exposition of the metrics for Prometheus."""

from collections import defaultdict
from collections.abc import Iterator

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.api.endpoints import Text, describes
from gateway.api.services import services
from gateway.domain import counters
from gateway.domain.counters import Counter
from gateway.domain.metrics import PREFIX, Kind, Sample
from gateway.services.metrics import Metrics

routes = Blueprint("metrics", __name__)


@routes.get("/metrics")
@describes({200: Text("text/plain", "application/openmetrics-text")})
def scrape() -> ResponseReturnValue:
    """The metrics in Prometheus' text format, or as OpenMetrics if the client accepts it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Exposition(services().metrics))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)


class _Exposition(Collector):
    """The samples of one scrape, as the families of prometheus_client."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        """Return nothing: with a description, the registry would collect all samples twice."""
        return []

    def collect(self) -> Iterator[Metric]:
        samples: defaultdict[str, list[Sample]] = defaultdict(list)
        for sample in self._metrics.samples():
            samples[sample.metric].append(sample)
        for metric in self._metrics.catalogue():
            name = PREFIX + metric.name
            if metric.kind is Kind.HISTOGRAM:
                counted = {sample.labels[0]: sample.value for sample in samples[metric.name]}
                buckets, total = counters.cumulated(Counter(metric.name), counted)
                yield HistogramMetricFamily(name, metric.help, buckets=buckets, sum_value=total)
                continue
            make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
            family = make(name, metric.help, labels=metric.labels)
            for sample in samples[metric.name]:
                family.add_metric(sample.labels, sample.value)
            yield family
