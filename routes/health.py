"""For load balancers, orchestrators and Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response, current_app, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from messaging.operations.health import OK, oldest_report_seconds, readiness, sending_state, worker_problem
from messaging.operations.metrics import Gauge, Gauges
from routes.guards import KEY_THROTTLE, REFUSED_CALLBACKS, requires_metrics_key
from routes.service import current_service
from utils.version import VERSION

CALLERS = "`/healthz` and `/readyz`: anyone. `/metrics`: holders of an API key, once there are keys."
GAUGES = "sms_gauges"

health_bp = Blueprint("health", __name__)


@health_bp.get("/healthz")
def show_alive() -> tuple[dict[str, str], int]:
    """Alive: the process answers. With `?worker=1` the whole service: 503 where no worker was seen lately."""
    said = {"status": OK, "version": VERSION}
    if "worker" in request.args:
        said["worker"] = worker_problem(current_service().database) or OK
    return said, 200 if said.get("worker", OK) == OK else 503


@health_bp.get("/readyz")
def show_ready() -> tuple[dict[str, object], int]:
    """Ready: this process can take callbacks and store them; 503 says what keeps it from that.

    The queue, the worker, what keeps texts from leaving (`sending`) and the age of the oldest report that is not
    applied yet are told and decide nothing.
    """
    found = readiness(current_service())
    said: dict[str, object] = {
        "status": "ready" if found.can_store else "not ready",
        "checks": found.checks,
        "sending": sending_state(current_service()),
        "oldest_report_seconds": oldest_report_seconds(current_service()),
    }
    return said, 200 if found.can_store else 503


@health_bp.get("/metrics")
@requires_metrics_key
def show_metrics() -> Response:
    """The service's gauges in Prometheus' text format."""
    for name in (REFUSED_CALLBACKS, KEY_THROTTLE):
        current_app.extensions[name].flush()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(current_app.extensions[GAUGES]))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _Scrape(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        return (_family(gauge) for gauge in self._gauges.read())


def _family(gauge: Gauge) -> Metric:
    if gauge.kind == "histogram":
        return HistogramMetricFamily(gauge.name, gauge.help, list(gauge.values.items()), gauge.sum)
    kind = CounterMetricFamily if gauge.kind == "counter" else GaugeMetricFamily
    labels = [gauge.label] if gauge.label else []
    family = kind(gauge.name, gauge.help, labels=labels)
    for value_of_label, value in gauge.values.items():
        family.add_metric([value_of_label] if labels else [], value)
    return family
