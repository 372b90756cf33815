"""Metrics of the server in Prometheus' text format.

Each replica counts in a registry of its own. With several replicas a scrape reaches any one of them, so a
board adds the counts of all of them up.
"""

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# A replica reports every few seconds. Gauges of a replica that stopped reporting are no longer true.
_STALE_SECONDS = 15


class Metrics:
    """Metrics of one replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "evclip_ray_requests", "Requests of /predict by HTTP status.", ["status"], registry=registry
        )
        self.seconds = Histogram(
            "evclip_ray_request_seconds",
            "Time from the start of a request of /predict to its answer.",
            ["status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.running = Gauge(
            "evclip_ray_requests_running",
            "Requests that are received, decoded or computed.",
            registry=registry,
        )
        self.upload_bytes = Counter("evclip_ray_upload_bytes", "Bytes of received videos.", registry=registry)
        self.decode_seconds = Histogram(
            "evclip_ray_decode_seconds", "Time of decoding one video.", buckets=_SECONDS, registry=registry
        )
        self.decoder_restarts = Counter(
            "evclip_ray_decoder_restarts", "Decoders that crashed, hung or were cancelled.", registry=registry
        )
        self.batch_views = Histogram(
            "evclip_ray_batch_views",
            "Views in one forward pass.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "evclip_ray_batch_seconds", "Time of one forward pass.", buckets=_SECONDS, registry=registry
        )
        self.queue = Gauge(
            "evclip_ray_queue_views", "Decoded views that wait for a forward pass.", registry=registry
        )

    def families(self) -> list[Metric]:
        """Return the present values."""
        # `Counter("x")` is the family x, whose sample is x_total. Its time of creation is of no use here.
        families = list(self.registry.collect())
        for family in families:
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        return families

    def render(self) -> bytes:
        """Return the text format."""
        return render(self.families())


class MetricsBoard:
    """Sum of the metrics of several replicas."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[float, list[Metric]]] = {}

    def update(self, replica: str, families: list[Metric]) -> None:
        """Store the present values of a replica. Its counts stay when it ends, so that sums never fall."""
        self._reports[replica] = time.monotonic(), families

    def render(self) -> bytes:
        """Return the sums in the text format."""
        oldest = time.monotonic() - _STALE_SECONDS
        totals: dict[str, Metric] = {}
        values: dict[str, dict[Any, float]] = {}
        for seen, families in self._reports.values():
            for family in families:
                if family.type == "gauge" and seen < oldest:
                    continue
                totals.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                sums = values.setdefault(family.name, {})
                for sample in family.samples:
                    key = (sample.name, tuple(sample.labels.items()))
                    sums[key] = sums.get(key, 0) + sample.value
        for name, sums in values.items():
            for (sample_name, labels), value in sums.items():
                totals[name].add_sample(sample_name, dict(labels), value)
        return render(list(totals.values()))


class _Families:
    """Collector of values that were collected elsewhere."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def render(families: list[Metric]) -> bytes:
    """Return metrics in the text format."""
    return generate_latest(_Families(families))  # type: ignore[arg-type]
