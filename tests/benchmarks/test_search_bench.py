"""`cff-bench search`: a real run on a small bundle, its figures, its report, wrong calls."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_bench import cli
from cff_bench.search import measurement
from cff_bench.search.banks import bank_of, brute_force
from cff_bench.search.measurement import SearchSettings, run_search
from cff_bench.search.memory import memory_beyond_bank_mb
from cff_bench.search.preselection import int8_candidates, recheck_ms
from cff_bench.search.report import format_search, too_slow
from cff_runtime import Bundle
from cff_runtime.errors import BackendError, UsageError

N_TOKENS = 144 + 144 + 36 + 9


def _unit_rows(seed: int, n_rows: int, width: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(n_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, draw_part: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for seed in range(4):
        Image.fromarray(draw_part(seed)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def settings(lite_bundle: Bundle, parts: Path) -> SearchSettings:
    return SearchSettings(lite_bundle.path, parts, (2, 8), max_bank=100, n=3, warmup=1)


@pytest.fixture(scope="module")
def report(settings: SearchSettings) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(json.dumps(run_search(settings)))
    return report


def test_every_bank_is_searched_whole_and_compressed(report: dict[str, Any]) -> None:
    names = [(entry["shots"], entry["name"]) for entry in report["banks"]]
    assert names == [(k, n) for k in (2, 8) for n in ("plain graph", "backend", "max-bank 100")]
    rows = [entry["bank_rows"] for entry in report["banks"]]
    assert rows[0] == rows[1] == [288, 288, 72, 18] and rows[2] == [100, 100, 72, 18]
    assert sum(rows[4]) == 8 * N_TOKENS and rows[5] == [100, 100, 100, 72]
    assert report["images"]["n_encoded"] == 3  # the fourth is inspected


def test_it_is_exact_on_real_features(report: dict[str, Any]) -> None:
    assert all(entry["max_difference_to_float64"] <= 1e-5 for entry in report["banks"])


def test_shares_and_ratios_are_of_one_round(report: dict[str, Any]) -> None:
    for entry in report["banks"]:
        assert entry["search"]["n"] == 3
        assert 0 < entry["share"] < entry["share_of_decoded"] < 1
        rows = sum(entry["bank_rows"])
        assert entry["us_per_row"] == pytest.approx(1e3 * entry["search"]["p50_ms"] / rows)
    plain = [entry for entry in report["banks"] if entry["name"] == "plain graph"]
    assert [entry["ratio_to_plain"] for entry in plain] == [1.0, 1.0]
    assert set(report["inspection"]) == {"decode", "preprocess", "encode", "finish"}


def test_compression_and_memory_are_told(report: dict[str, Any]) -> None:
    for entry in report["banks"]:
        peak = entry["peak_beyond_bank_mb"]
        assert peak is None or (entry["name"] == "backend" and 0 <= peak < 200)
        assert ("compression" in entry) == entry["name"].startswith("max-bank")
        if "compression" in entry:
            facts = entry["compression"]
            assert facts["seconds"] > 0 and facts["map_rise_largest"] > 0
            assert facts["n_rows"] == entry["bank_rows"]


def test_text_has_a_row_a_bank_and_the_preselection(report: dict[str, Any]) -> None:
    text = format_search(report)
    for part in ("max-bank 100", "us/row", "int8 pre-selection at K = 2", "n = 3", "encode"):
        assert part in text
    assert not too_slow(report)


def test_a_share_above_the_limit_fails(report: dict[str, Any]) -> None:
    strict = {**report, "settings": {**report["settings"], "max_share": 1e-9}}
    assert too_slow(strict) and "limit 0.0%" in format_search(strict)
    assert not too_slow({**report, "settings": {**report["settings"], "max_share": 1.0}})


def test_the_command_writes_json(
    settings: SearchSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(measurement, "memory_beyond_bank_mb", lambda *_: None)
    out = tmp_path / "search.json"
    argv = ["search", str(settings.bundle), "--images", str(settings.images), "--shots", "1"]

    assert cli.main([*argv, "-n", "1", "--warmup", "0", "--json", str(out)]) == 0
    assert cli.main([*argv, "-n", "1", "--max-share", "0.000001"]) == 1

    report = json.loads(out.read_text())
    assert report["command"][1:] == [*argv, "-n", "1", "--warmup", "0", "--json", str(out)]
    assert report["banks"][0]["peak_beyond_bank_mb"] is None
    assert "search ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"shots": ()}, "`--shots` must be"),
        ({"shots": (0, 4)}, "`--shots` must be"),
        ({"shots": (65,)}, "`--shots` must be 1 to 64"),
        ({"n": 0}, "`-n` and `--encode`"),
        ({"n_encoded": 0}, "`-n` and `--encode`"),
        ({"warmup": -1}, "`-n` and `--encode`"),
        ({"max_bank": 0}, "`--max-bank` must be"),
        ({"max_share": 0.0}, "`--max-share` must be"),
        ({"max_share": float("nan")}, "`--max-share` must be"),
        ({"images": Path("nowhere")}, "`--images` must be a folder"),
    ],
)
def test_settings_out_of_range_are_refused(
    change: dict[str, Any], expected: str, settings: SearchSettings
) -> None:
    with pytest.raises(UsageError, match=expected):
        run_search(replace(settings, **change))


def test_wrong_words_and_empty_folders_are_wrong_calls(
    settings: SearchSettings, tmp_path: Path, capsys: Any
) -> None:
    argv = ["search", str(settings.bundle), "--images", str(tmp_path)]
    assert cli.main([*argv, "--shots", "four"]) == 2
    assert "`--shots` must be numbers" in capsys.readouterr().err
    assert cli.main(argv) == 2
    assert "must hold at least two images" in capsys.readouterr().err


def test_a_bank_beyond_the_references_repeats_them_a_little_moved() -> None:
    features = [_unit_rows(seed, 20, 16) for seed in range(3)]
    bank = bank_of(features, 7)
    assert bank.shape == (140, 16) and bank.dtype == np.float32
    np.testing.assert_array_equal(bank[:60], np.concatenate(features))
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1.0, atol=1e-6)
    assert 0.9975 < (bank[60:120] * bank[:60]).sum(axis=1).min() < 1.0
    np.testing.assert_array_equal(bank, bank_of(features, 7))
    np.testing.assert_array_equal(bank_of(features, 2), bank[:40])


def test_brute_force_is_the_largest_cosine() -> None:
    rows, bank = _unit_rows(0, 30, 8), _unit_rows(1, 5000, 8)
    expected = (rows.astype(np.float64) @ bank.astype(np.float64).T).max(axis=1)
    np.testing.assert_allclose(brute_force(rows, bank), expected, rtol=1e-14)


def test_the_nearest_row_is_always_an_int8_candidate() -> None:
    rows, bank = _unit_rows(0, 200, 24), _unit_rows(1, 900, 24)
    candidates = int8_candidates(rows, bank)
    nearest = (rows.astype(np.float64) @ bank.astype(np.float64).T).argmax(axis=1)
    assert candidates[np.arange(200), nearest].all()
    assert candidates.mean() < 0.2
    assert recheck_ms(rows, bank, candidates) > 0


def test_a_process_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"a search at K = 4 must run in a process of its own"):
        memory_beyond_bank_mb(tmp_path, (4,), 1)
