import socket
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from cff_runtime.errors import MissingDependencyError, UsageError
from cff_runtime.watch.metrics import METRICS, PrometheusMetrics


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _values(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_what_happened_can_be_read(
    station: Any, png: Callable[..., bytes], port: int, fake: Any, until: Callable[..., Any]
) -> None:
    pytest.importorskip("prometheus_client", reason="needs cff-edge[watch]")
    station.start({"metrics_port": port})
    for name, data in {"a": png(1), "b": png(2), "c": png(3, 180), "d": b"none"}.items():
        station.put(f"{name}.png", data)
    station.wait_lines(4)
    fake.write_profile(station.base / "profile", 50.0)
    until(lambda: _values(port).get('cff_watch_profile_swaps_total{result="taken",source="line"}'))
    station.watch._keepers.report_failure("planted")
    until(lambda: _values(port)['cff_watch_fault_seconds_total{source="line"}'] > 0)

    values = _values(port)

    verdicts = {"pass": 2.0, "reject": 1.0, "error": 1.0}
    for verdict, n_records in verdicts.items():
        name = f'cff_watch_inspections_total{{source="line",verdict="{verdict}"}}'
        assert values[name] == n_records
    assert values['cff_watch_errors_total{kind="image",source="line"}'] == 1
    assert values['cff_watch_stage_seconds_count{source="line",stage="encode"}'] == 3
    assert values['cff_watch_disk_free_bytes{source="line"}'] > 0
    assert values['cff_watch_queue_length{source="line"}'] == 0
    assert values['cff_watch_heartbeat_timestamp_seconds{source="line"}'] > 1.6e9
    station.stop()
    with pytest.raises(OSError, match="refused"):
        _values(port)


def test_dropped_frames_are_counted(station: Any, port: int, until: Callable[..., Any]) -> None:
    pytest.importorskip("prometheus_client", reason="needs cff-edge[watch]")
    station.controls.delay_s = 0.02
    station.start_camera({"metrics_port": port})
    until(lambda: _values(port).get('cff_watch_dropped_frames_total{source="line"}', 0) > 5)


def test_a_port_in_use(station: Any, port: int) -> None:
    pytest.importorskip("prometheus_client", reason="needs cff-edge[watch]")
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(UsageError, match=r"`watch.metrics_port` must be free"):
            station.start({"metrics_port": port})
        station.watch = None


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingDependencyError, match=r"cff-edge\[watch\]"):
        PrometheusMetrics("127.0.0.1", 9)


def test_metrics_have_names_with_units() -> None:
    assert all(name.startswith("cff_watch_") for name in METRICS)
    assert {kind for kind, _, _ in METRICS.values()} == {"counter", "gauge", "histogram"}
