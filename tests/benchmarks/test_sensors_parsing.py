"""What the kernel's files and the makers' tools write, as they document it.

Sources: nvidia-smi(1) and `nvidia-smi --help-query-gpu` (fields, `[N/A]`), nvml.h
(nvmlClocksEventReasons); Jetson Linux Developer Guide, "Tegrastats Utility", with lines recorded
on a Jetson Nano (release 32), an Orin NX (35/36) and an AGX Thor (38.4) that owners published;
proc(5); kernel documentation, "PSI", "Power Capping Framework".
"""

import time
from pathlib import Path

import pytest

from cff_bench.sensors import jetson, nvidia_smi
from cff_bench.sensors.discovery import parse_nvpmodel
from cff_bench.sensors.jetson import TegrastatsSource
from cff_bench.sensors.load import (
    LOAD,
    OTHERS,
    PRESSURE,
    STEAL,
    LoadSource,
    parse_pressure,
    parse_stat,
)
from cff_bench.sensors.nvidia_smi import NvidiaSmiSource
from cff_bench.sensors.processor import (
    CLOCK,
    CLOCK_LOWEST,
    THROTTLED,
    ClockSource,
    DevfreqSource,
    ThermalSource,
    ThrottleSource,
)
from cff_bench.sensors.rapl import RaplSource
from cff_runtime.doctor.box import Box

STAT = """cpu  1000 100 300 9000 50 10 40 25 5 0
cpu0 500 50 150 4500 25 5 20 12 2 0
intr 1462898
"""
PSI = """some avg10=52.42 avg60=14.60 avg300=14.43 total=18291590609
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""
NANO = (
    "RAM 1170/3956MB (lfb 496x4MB) SWAP 0/1978MB (cached 0MB) CPU [20%@1479,21%@1479,off,off] "
    "EMC_FREQ 0% GR3D_FREQ 34% PLL@38C CPU@39.5C PMIC@100C GPU@39C AO@46C thermal@38.75C "
    "POM_5V_IN 3129/3130 POM_5V_GPU 160/161 POM_5V_CPU 922/923"
)
ORIN = (
    "06-16-2026 07:35:01 RAM 2819/7618MB (lfb 73x4MB) SWAP 0/3809MB (cached 0MB) "
    "CPU [37%@1510,2%@1510,0%@729,0%@729,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 42%@[611,610] "
    "VIC_FREQ 729 APE 174 cpu@40.218C soc2@39.5C tj@41.25C VDD_IN 4924mW/4900mW "
    "VDD_CPU_GPU_CV 570mW/560mW VDD_SOC 1380mW/1380mW"
)
THOR = (
    "04-21-2026 15:50:52 RAM 105265/125772MB (lfb 34x4MB) CPU [0%@972,8%@972] EMC_FREQ 0%@2750 "
    "GR3D_FREQ @[314,314,314] NVENC0_FREQ @314 VIC off OFA_FREQ @315 APE 300 cpu@37.343C "
    "tj@38.875C VDD_GPU 1962mW/1962mW VIN 19780mW/19780mW"
)
GPU_LINE = "0, 1410, 5001, 61, 68.42, 97, 2315, 0x0000000000000024"


def lay_out(root: Path, files: dict[str, str]) -> Box:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Box(root, path=str(root / "bin"))


def put_tool(root: Path, name: str, body: str) -> None:
    path = root / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_stat_leaves_out_idle_waiting_and_guests() -> None:
    # user 1000 + nice 100 + system 300 + irq 10 + softirq 40; guest is within user
    assert parse_stat(STAT) == (1450, 25)
    assert parse_stat("intr 1\n") is None
    assert parse_stat("cpu 1 2 3\n") is None


def test_pressure_is_in_seconds() -> None:
    assert parse_pressure(PSI) == pytest.approx(18291.590609)
    assert parse_pressure("full avg10=0.00 total=3\n") is None


def test_others_are_what_is_busy_and_not_ours(tmp_path: Path) -> None:
    files = {"proc/stat": STAT, "proc/loadavg": "1.25 2.00 4.00 2/345 9", "proc/pressure/cpu": PSI}
    source = LoadSource(lay_out(tmp_path, files), lambda: 4.0, ticks_per_second=100)
    told = source.read()
    assert told[OTHERS] == pytest.approx(14.5 - 4.0)
    assert told[STEAL] == pytest.approx(0.25)
    assert told[PRESSURE] == pytest.approx(18291.590609)
    assert told[LOAD] == 1.25
    assert not source.reasons


def test_a_box_without_these_files_says_so(tmp_path: Path) -> None:
    box = lay_out(tmp_path, {})
    for source in (
        LoadSource(box, lambda: 0.0),
        ClockSource(box, {0}),
        ThrottleSource(box),
        ThermalSource(box),
        RaplSource(box),
        NvidiaSmiSource(box),
        TegrastatsSource(box),
    ):
        assert source.quantities
        assert {one.name for one in source.quantities} == set(source.reasons)
        assert all("not found" in reason for reason in source.reasons.values())
        assert not source.read()
        source.close()
    assert not DevfreqSource(box).quantities


def test_clocks_are_mean_and_slowest_of_the_cores_asked_for(tmp_path: Path) -> None:
    folder = "sys/devices/system/cpu"
    clocks = {0: 3_000_000, 1: 2_000_000, 2: 800_000}
    box = lay_out(
        tmp_path, {f"{folder}/cpu{c}/cpufreq/scaling_cur_freq": f"{k}\n" for c, k in clocks.items()}
    )
    source = ClockSource(box, {0, 1})
    assert source.read() == {CLOCK: 2500.0, CLOCK_LOWEST: 2000.0}
    assert not source.reasons


def test_throttling_adds_up_cores_and_packages(tmp_path: Path) -> None:
    folder = "sys/devices/system/cpu/cpu{}/thermal_throttle/{}_throttle_count"
    files = {
        folder.format(0, "core"): "3",
        folder.format(0, "package"): "5",
        folder.format(1, "core"): "4",
    }
    assert ThrottleSource(lay_out(tmp_path, files)).read() == {THROTTLED: 12.0}


def test_thermal_zones_and_other_clocks(tmp_path: Path) -> None:
    box = lay_out(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
            "sys/class/thermal/thermal_zone0/temp": "48500\n",
            "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
            "sys/class/thermal/thermal_zone1/temp": "",  # powered down
            "sys/class/devfreq/17000000.gpu/cur_freq": "611000000\n",
        },
    )
    source = ThermalSource(box)
    assert source.read() == {"temperature_x86_pkg_temp_0": 48.5}
    assert source.reasons == {"temperature_cv0-thermal_1": "empty"}
    assert DevfreqSource(box).read() == {"clock_17000000.gpu": 611.0}


def test_energy_counters_go_on_where_they_begin_again(tmp_path: Path) -> None:
    folder = "sys/class/powercap/intel-rapl:0"
    box = lay_out(
        tmp_path,
        {
            f"{folder}/name": "package-0",
            f"{folder}/energy_uj": "262143000000",
            f"{folder}/max_energy_range_uj": "262143328850",
        },
    )
    source = RaplSource(box)
    (quantity,) = source.quantities
    assert (quantity.title, quantity.unit, quantity.kind) == ("power, package-0", "W", "rate")
    first = source.read()[quantity.name]
    (tmp_path / folder / "energy_uj").write_text("671150")
    assert source.read()[quantity.name] - first == pytest.approx(0.328850 + 0.671150)


def test_energy_that_only_root_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "sys/class/powercap/intel-rapl:0"
    box = lay_out(tmp_path, {f"{folder}/name": "package-0", f"{folder}/energy_uj": "1"})
    real_open = Path.open

    def deny(path: Path, *rest: object, **options: object) -> object:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return real_open(path, *rest, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", deny)
    source = RaplSource(box)
    assert list(source.reasons.values()) == ["only root may read it (CVE-2020-8694)"]
    assert not source.read()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            NANO,
            {
                "jetson_cpu_clock": 1479.0,
                "jetson_gpu_busy": 34.0,
                "jetson_temperature_PLL": 38.0,
                "jetson_temperature_CPU": 39.5,
                "jetson_temperature_PMIC": 100.0,
                "jetson_temperature_GPU": 39.0,
                "jetson_temperature_AO": 46.0,
                "jetson_temperature_thermal": 38.75,
                "jetson_watts_POM_5V_IN": 3.129,
                "jetson_watts_POM_5V_GPU": 0.160,
                "jetson_watts_POM_5V_CPU": 0.922,
            },
        ),
        (
            ORIN,
            {
                "jetson_cpu_clock": (1510 + 1510 + 729 + 729) / 4,
                "jetson_gpu_busy": 42.0,
                "jetson_gpu_clock": 611.0,
                "jetson_temperature_cpu": 40.218,
                "jetson_temperature_soc2": 39.5,
                "jetson_temperature_tj": 41.25,
                "jetson_watts_VDD_IN": 4.924,
                "jetson_watts_VDD_CPU_GPU_CV": 0.570,
                "jetson_watts_VDD_SOC": 1.380,
            },
        ),
        (
            THOR,
            {
                "jetson_cpu_clock": 972.0,
                "jetson_gpu_clock": 314.0,
                "jetson_temperature_cpu": 37.343,
                "jetson_temperature_tj": 38.875,
                "jetson_watts_VDD_GPU": 1.962,
                "jetson_watts_VIN": 19.780,
            },
        ),
        ("usage: tegrastats [--interval ms]", {}),
    ],
)
def test_tegrastats_lines(line: str, expected: dict[str, float]) -> None:
    assert jetson.parse_line(line) == pytest.approx(expected)


def test_nvidia_smi_line() -> None:
    index, values = nvidia_smi.parse_line(GPU_LINE)
    assert index == "0"
    assert values == {
        "clock": 1410.0,
        "memory_clock": 5001.0,
        "temperature": 61.0,
        "watts": 68.42,
        "busy": 97.0,
        "memory": 2315.0,
        "power_capped": 1.0,  # 0x04
        "heat_capped": 1.0,  # 0x20
        "hardware_capped": 0.0,
    }


def test_a_gpu_that_does_not_tell_watts_or_reasons() -> None:
    _, values = nvidia_smi.parse_line("1, 300, [N/A], 40, [Not Supported], 0, 4, [N/A]")
    assert values == {"clock": 300.0, "temperature": 40.0, "busy": 0.0, "memory": 4.0}
    assert nvidia_smi.parse_line("No devices were found") == ("?", {})
    # idle (0x1) and clocks set by the user (0x2) are no throttling
    _, idle = nvidia_smi.parse_line("0, 1, 1, 1, 1, 1, 1, 0x0000000000000003")
    assert not any(idle[name] for name in ("power_capped", "heat_capped", "hardware_capped"))


def test_nvidia_smi_is_asked_again_with_the_names_of_older_drivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_tool(
        tmp_path,
        "nvidia-smi",
        'case "$*" in *event_reasons*) echo "Field \\"clocks_event_reasons.active\\" is not a '
        'valid field to query." >&2; exit 2;; *loop-ms*) '
        f'while :; do echo "{GPU_LINE.replace("1410", "1395")}"; sleep 0.02; done;; esac; '
        f'echo "{GPU_LINE}"',
    )
    box = lay_out(tmp_path, {})
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    source = NvidiaSmiSource(box)
    try:
        assert not source.reasons
        assert source.read()["gpu0_heat_capped"] == 1.0
        for _ in range(200):
            if source.read().get("gpu0_clock") == 1395.0:
                break
            time.sleep(0.02)
        assert source.read()["gpu0_clock"] == 1395.0
    finally:
        source.close()
    assert source.read() == {}  # what was told before is no news


def test_a_driver_that_fails_is_told(tmp_path: Path) -> None:
    put_tool(tmp_path, "nvidia-smi", 'echo "NVIDIA-SMI has failed" >&2; exit 9')
    source = NvidiaSmiSource(lay_out(tmp_path, {}))
    assert source.reasons == {"gpu": "failed: NVIDIA-SMI has failed"}
    assert not source.read()


def test_tegrastats_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tool(tmp_path, "tegrastats", f'while :; do echo "{ORIN}"; sleep 0.05; done')
    box = Box(tmp_path, path=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("PATH", box.path)
    source = TegrastatsSource(box)
    try:
        units = {one.name: one.unit for one in source.quantities}
        assert units["jetson_watts_VDD_IN"] == "W"
        assert units["jetson_temperature_tj"] == "°C"
        assert source.read()["jetson_watts_VDD_IN"] == 4.924
    finally:
        source.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W\n2\n", "MODE_15W (2)"),
        ("NVPM WARN: power mode is not set!\nNV Power Mode: MAXN_SUPER", "MAXN_SUPER"),
        ("nvpmodel: unknown", None),
    ],
)
def test_power_mode(text: str, expected: str | None) -> None:
    assert parse_nvpmodel(text) == expected


def test_a_tool_tells_lines_and_what_it_spends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cff_bench.sensors.tool_stream import ToolStream

    put_tool(tmp_path, "busy", "echo first; i=0; while :; do i=$((i+1)); done")
    lines: list[str] = []
    stream = ToolStream([str(tmp_path / "bin" / "busy")], lines.append)
    deadline_s = time.monotonic() + 20
    while stream.spent_s < 0.05 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert stream.is_running and stream.is_fresh
    monkeypatch.setattr("cff_bench.sensors.tool_stream.FRESH_S", 0.0)
    assert not stream.is_fresh
    stream.close()
    assert lines == ["first\n"]
    assert stream.spent_s >= 0.05  # also after its end
    assert not stream.is_running
