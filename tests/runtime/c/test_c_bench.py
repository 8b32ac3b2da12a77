"""`cff-bench c-library`: libcff beside the Python runtime."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cff_bench.c_library import comparison
from cff_bench.c_library.comparison import (
    ComparisonSettings,
    fails,
    format_comparison,
    run_comparison,
)
from cff_bench.cli import main
from cff_runtime import Bundle, Profile
from cff_runtime.errors import BackendError, UsageError

C_FOLDER = Path(__file__).parents[3] / "runtime" / "c"


@pytest.fixture
def settings(
    c_build: Path, lite_bundle: Bundle, lite_profile: Profile, tmp_path: Path
) -> ComparisonSettings:
    profile = tmp_path / "part.safetensors"
    lite_profile.save(profile)
    return ComparisonSettings(
        library=c_build / "libcff.so",
        include=C_FOLDER / "include",
        bundle=lite_bundle.path,
        profile=profile,
        image=None,
        n=7,
        warmup=1,
        endurance=0,
        threads=1,
    )


@pytest.fixture
def report(settings: ComparisonSettings, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(comparison, "SETTLED", 2)
    return run_comparison(replace(settings, endurance=5))


def test_both_inspect_alike(report: dict[str, Any], settings: ComparisonSettings) -> None:
    total = report["rows"][0]
    assert total["name"] == "total"
    assert report["score_diff"] < 1e-5
    for side in ("libcff", "python"):
        assert total[side]["n"] == settings.n
        stages = [row[side]["mean_ms"] for row in report["rows"][1:]]
        assert 0 < sum(stages) <= total[side]["mean_ms"] * 1.001
    assert report["ratio"]["p50"] == total["libcff"]["p50_ms"] / total["python"]["p50_ms"]


def test_memory_counts_graphs_and_bank(
    report: dict[str, Any], lite_bundle: Bundle, lite_profile: Profile
) -> None:
    memory = report["memory"]
    graphs = [path.stat().st_size for path in lite_bundle.path.glob("*.onnx*")]
    bank = sum(bank.size * 4 for bank in lite_profile.banks)
    assert memory["files_mb"] == pytest.approx((sum(graphs) + bank) / 1e6, rel=1e-9)
    assert memory["libcff"]["peak"] >= memory["libcff"]["now"] > memory["files_mb"]
    assert memory["extra_mb"] == memory["libcff"]["peak"] - memory["files_mb"]


def test_endurance_is_followed(report: dict[str, Any]) -> None:
    endurance = report["endurance"]
    assert endurance["n"] == 5
    assert len(endurance["memory_mb"]) == 1 + 3  # at first, then after 2, 4 and 5
    assert endurance["growth"] == max(endurance["memory_mb"]) / endurance["memory_mb"][0] - 1


def test_broken_promises_are_named(report: dict[str, Any]) -> None:
    report["ratio"]["p50"], report["memory"]["extra_mb"] = 0.9, 10.0
    report["endurance"]["growth"] = 0.0
    assert fails(report) == []
    report["ratio"]["p50"], report["memory"]["extra_mb"] = 1.25, 100.0
    report["endurance"]["growth"] = 0.02
    said = " ".join(fails(report))
    assert "1.250" in said and "100 MB" in said and "2.0 %" in said
    assert "endurance 5 inspections" in format_comparison(report)


def test_a_process_that_fails_says_why(settings: ComparisonSettings, tmp_path: Path) -> None:
    (tmp_path / "no.bundle").mkdir()
    with pytest.raises(BackendError, match="must be a bundle"):
        run_comparison(replace(settings, bundle=tmp_path / "no.bundle"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 1}, "`n` must be at least 5"),
        ({"endurance": -1}, "at least 0"),
        ({"library": Path("no.so")}, "make c"),
        ({"include": Path("nowhere")}, "`include`"),
    ],
)
def test_bad_settings(settings: ComparisonSettings, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run_comparison(replace(settings, **changes))


def test_library_of_something_else(settings: ComparisonSettings, tmp_path: Path) -> None:
    other = tmp_path / "libcff.so"
    other.write_bytes(b"no library")
    with pytest.raises(UsageError, match="must be libcff with its header"):
        run_comparison(replace(settings, library=other))


def test_command(
    settings: ComparisonSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["c-library", str(settings.bundle), "--profile", str(settings.profile)]
    words += ["--library", str(settings.library), "--include", str(settings.include)]
    words += ["-n", "5", "--warmup", "0", "--threads", "1", "--json", str(tmp_path / "out.json")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "libcff" in out and "ratio" in out
    assert (tmp_path / "out.json").is_file()
    assert main([*words[:4], "--library", "no.so"]) == 2
    assert "make c" in capsys.readouterr().err
