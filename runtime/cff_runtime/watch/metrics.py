"""Prometheus metrics, by the library that Prometheus keeps, on loopback unless told otherwise."""

from typing import Any, Protocol

from cff_runtime.errors import MissingDependencyError, UsageError

# name -> (kind, help, labels beside `source`)
METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "cff_watch_inspections": ("counter", "Records by verdict", ("verdict",)),
    "cff_watch_errors": ("counter", "Errors by kind", ("kind",)),
    "cff_watch_dropped_frames": ("counter", "Frames that went because the queue was full", ()),
    "cff_watch_fault_seconds": ("counter", "Seconds in a fault", ()),
    "cff_watch_profile_swaps": ("counter", "Changed profiles, taken or refused", ("result",)),
    "cff_watch_stage_seconds": ("histogram", "Time of an inspection's stages", ("stage",)),
    "cff_watch_queue_length": ("gauge", "Frames that wait", ()),
    "cff_watch_fault": ("gauge", "1 while there is a fault", ()),
    "cff_watch_warnings": ("gauge", "Warnings that last", ()),
    "cff_watch_condition": ("gauge", "Last measurement of the image's condition", ("measure",)),
    "cff_watch_disk_free_bytes": ("gauge", "Left on the disk of the records", ()),
    "cff_watch_heartbeat_timestamp_seconds": ("gauge", "Unix time of the last beat", ()),
}
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics(Protocol):
    """Where numbers go."""

    def count(self, name: str, source: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        ...

    def observe(self, name: str, source: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        ...

    def set(self, name: str, source: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...

    def close(self) -> None:
        """Free the port."""
        ...


class NoMetrics:
    """For a watch without a port for metrics."""

    def count(self, name: str, source: str, amount: float = 1.0, **labels: str) -> None:
        """Do nothing."""

    def observe(self, name: str, source: str, value: float, **labels: str) -> None:
        """Do nothing."""

    def set(self, name: str, source: str, value: float, **labels: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class PrometheusMetrics:
    """Serves `METRICS` on an address.

    Parameters
    ----------
    address : str
    port : int

    Raises
    ------
    MissingDependencyError
        If `prometheus-client` is not installed.
    UsageError
        If the address cannot be used.
    """

    def __init__(self, address: str, port: int) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise MissingDependencyError(
                "--metrics-port needs `prometheus-client`; install cff-edge[watch] with pip"
            ) from error
        registry = prometheus.CollectorRegistry()
        self._metrics: dict[str, Any] = {}
        for name, (kind, text, labels) in METRICS.items():
            names = ("source", *labels)
            if kind == "counter":
                self._metrics[name] = prometheus.Counter(name, text, names, registry=registry)
            elif kind == "gauge":
                self._metrics[name] = prometheus.Gauge(name, text, names, registry=registry)
            else:
                self._metrics[name] = prometheus.Histogram(
                    name, text, names, registry=registry, buckets=_BUCKETS_S
                )
        try:
            self._server, self._thread = prometheus.start_http_server(port, address, registry)
        except OSError as error:
            raise UsageError(
                f"`watch.metrics_port` must be free on {address}, {port} is not: {error.strerror}"
            ) from error

    def count(self, name: str, source: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self._metrics[name].labels(source=source, **labels).inc(amount)

    def observe(self, name: str, source: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        self._metrics[name].labels(source=source, **labels).observe(value)

    def set(self, name: str, source: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._metrics[name].labels(source=source, **labels).set(value)

    def close(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
