"""`cff-bench sweep`: what exists, going on after an interruption, and the report's figures."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_bench.environment import available_cores
from cff_bench.precision.speed import NOT_TIMED
from cff_bench.report.document import Report
from cff_bench.sweep import axes, command, document, measurement, subjects
from cff_bench.sweep.axes import Axes, EncodePart, SearchPart, bank_rows, combinations, parts_of
from cff_bench.sweep.document import run
from cff_bench.sweep.journal import Journal
from cff_bench.sweep.laws import find_laws
from cff_bench.sweep.measurement import Group, Sweep, SweepSettings
from cff_runtime import Bundle
from cff_runtime.backends import Encoding, open_backend
from cff_runtime.errors import BackendError, UsageError
from cff_runtime.manifest import Variant

CPU = "onnxruntime/cpu"
ROWS_OF_ONE = 144 + 144 + 36 + 9  # of the small bundle's stages
SMALL = Axes(batches=(1, 2), shots=(1, 2, 3), banks=(0, 200), threads=(1,))


@pytest.fixture(scope="module")
def precise(lite_bundle: Bundle) -> Bundle:
    """The bundle with an fp16 and an int8 that takes one image; the graphs are its own."""
    manifest = lite_bundle.manifest
    variants = {
        "fp16": Variant(manifest.encoder, "a", (), {}, {}),
        "int8": Variant(manifest.encoder, "b", (), {"batch": 1}, {}),
    }
    return Bundle(lite_bundle.path, replace(manifest, variants=variants))


@pytest.fixture(scope="module")
def settings(lite_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> SweepSettings:
    journal = tmp_path_factory.mktemp("sweep") / "sweep.jsonl"
    backends = (CPU, "onnxruntime/cuda")
    return SweepSettings(
        (lite_bundle.path,), replace(SMALL, backends=backends), 3, 1, journal, ("cff-bench",)
    )


@pytest.fixture(scope="module")
def report(settings: SweepSettings) -> Report:
    return Report.from_dict(json.loads(json.dumps(run(settings).to_dict())))


def table(report: Report, name: str) -> list[dict[str, Any]]:
    return next(table.rows for table in report.tables if table.name == name)


def made_up(bundle: Bundle, chosen: Axes, times: Callable[[Any], list[float]]) -> Sweep:
    """A sweep whose times are given instead of measured."""
    cells = combinations(chosen, CPU, bundle, {})
    samples = {part.key: times(part) for part in parts_of(cells)}
    label = axes.bundle_label(bundle)
    return Sweep([Group(label, CPU, bundle, cells, samples)], [], {})


# --- what exists


def test_every_combination_that_cannot_be_has_its_reason(precise: Bundle) -> None:
    cores = available_cores()
    chosen = Axes((1, 2), (1, 2), (0, 200), ("fp32", "fp16", "int8", "fp8"), (1, cores + 1))
    cells = combinations(chosen, CPU, precise, {"int8": 1})
    assert len(cells) == 4 * 2 * 2 * 2 * 2
    for cell in cells:
        encode, search = cell.encode, cell.search
        expected = None
        if encode.precision == "fp8":
            expected = "the bundle has no fp8"
        elif encode.precision == "fp16":
            expected = NOT_TIMED["fp16"]
        elif encode.threads > cores:
            expected = f"this machine has {cores} cores"
        elif encode.precision == "int8" and encode.batch > 1:
            expected = "this encoder takes 1 image at a time"
        elif search.bank == 200 and search.shots == 1:
            expected = "at K = 1 a bank has at most 144 rows, nothing to compress"
        assert cell.reason == expected
    assert EncodePart("fp16", 1, 1) not in parts_of(cells)


def test_on_a_device_threads_are_its_own_choice_and_fp16_is_timed(precise: Bundle) -> None:
    chosen = Axes((1,), (1,), (0,), ("fp16",), (1, 2))
    (cell,) = combinations(chosen, "onnxruntime/cuda", precise, {})
    assert cell.reason is None and cell.encode.threads == 0


def test_banks_have_the_rows_of_their_stages(lite_bundle: Bundle) -> None:
    assert bank_rows(SearchPart(1, 2, 0), lite_bundle) == [288, 288, 72, 18]
    assert bank_rows(SearchPart(1, 2, 100), lite_bundle) == [100, 100, 72, 18]


def test_default_threads_are_powers_of_two_up_to_the_cores(monkeypatch: Any) -> None:
    for cores, expected in ((1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))):
        monkeypatch.setattr(axes, "available_cores", lambda n=cores: n)
        assert axes.default_threads() == expected


def test_bundles_of_one_name_are_told_apart(lite_bundle: Bundle) -> None:
    other = Bundle(lite_bundle.path, replace(lite_bundle.manifest, id="0123456789"))
    assert axes.bundle_labels([lite_bundle]) == ["efficientnet-lite0-96"]
    labels = axes.bundle_labels([lite_bundle, other])
    assert labels[1] == "efficientnet-lite0-96-01234567" != labels[0]


# --- what is run


def test_a_batch_is_encoded_as_its_images_alone(lite_bundle: Bundle) -> None:
    subject = subjects.OnnxRuntimeSubject(lite_bundle, "cpu")
    part = EncodePart("fp32", 1, 3)
    subject.prepare(part)
    features = subject.encode(part)[0].numpy()
    backend = open_backend("onnxruntime", lite_bundle, {"threads": 1})
    text = lite_bundle.condition_of_word("object")
    for row, image in zip(features, subjects.noise_images(lite_bundle, 3), strict=True):
        alone = backend.download(backend.encode(image, text).features[0])
        np.testing.assert_allclose(row, alone, atol=1e-5)


def test_a_search_finds_the_image_in_its_own_bank(lite_bundle: Bundle) -> None:
    subject = subjects.OnnxRuntimeSubject(lite_bundle, "cpu")
    whole, cut = SearchPart(1, 2, 0), SearchPart(1, 2, 200)
    found = {}
    for part in (whole, cut):
        subject.prepare(part)
        found[part] = subject.run(part)
    best: list[NDArray[np.float32]] = found[whole]  # type: ignore[assignment]
    np.testing.assert_allclose(np.concatenate(best), 1, atol=1e-5)
    fewer: list[NDArray[np.float32]] = found[cut]  # type: ignore[assignment]
    assert fewer[0].min() < 0.999 and (fewer[0] <= best[0] + 1e-6).all()


class OneImageBackend:
    """A backend that takes one image, as that of the engines does."""

    def encode(self, image: NDArray[np.uint8], text: NDArray[np.float32]) -> Encoding:
        assert image.ndim == 3
        rows = [np.eye(3, dtype=np.float32)] * 4
        return Encoding(tuple(rows), np.zeros((2, 2), np.float32), None)

    def download(self, features: Any) -> Any:
        return features

    def upload_bank(self, bank: NDArray[np.float32]) -> Any:
        return bank

    def search(self, stage: int, features: Any, bank: Any) -> Any:
        return (features @ bank.T).max(axis=1)


def test_engines_take_one_image_at_a_time(precise: Bundle, monkeypatch: Any) -> None:
    opened = []

    def fake(name: str, bundle: Bundle, options: Any) -> OneImageBackend:
        opened.append((name, bundle.manifest.precision))
        return OneImageBackend()

    monkeypatch.setattr(subjects, "open_backend", fake)
    subject = subjects.open_subject("tensorrt", precise)
    assert subject.batch_limit("fp16") == 1
    encode, search = EncodePart("fp16", 0, 1), SearchPart(0, 1, 0)
    for part in (encode, search):
        subject.prepare(part)
    assert isinstance(subject.run(encode), Encoding)
    assert [best.tolist() for best in subject.run(search)] == [[1, 1, 1]] * 4  # type: ignore[attr-defined]
    assert opened == [("tensorrt", "fp32"), ("tensorrt", "fp16")]


# --- the journal


def test_whole_lines_of_the_same_bundle_count(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    lines = [
        '{"group": "g", "of": "a", "ms": {"p": 1.5, "q": 2.0}}',
        '{"group": "g", "of": "b", "ms": {"p": 9.0}}',
        '{"group": "h", "of": "a", "ms": {"p": 8.0}}',
        '{"group": "g", "of": "a", "ms": {"p": -1.0}}',
        '{"group": "g", "of": "a", "ms": "none"}',
        "[1, 2]",
        '{"group": "g", "of": "a", "ms": {"p": 2.5}}',
        '{"group": "g", "of": "a", "ms": {"p": 3.',
    ]
    path.write_text("\n".join(lines))
    journal = Journal(path)
    assert journal.samples("g", "a") == {"p": [1.5, 2.5], "q": [2.0]}
    journal.add("g", "a", {"q": 4.0})
    assert Journal(path).samples("g", "a") == {"p": [1.5, 2.5], "q": [2.0, 4.0]}
    journal.finish()
    assert Journal(path).samples("g", "a") == {} and path.read_text() == ""


def test_without_a_file_nothing_is_kept() -> None:
    journal = Journal(None)
    journal.add("g", "a", {"p": 1.0})
    journal.finish()
    assert journal.samples("g", "a") == {"p": [1.0]}


def test_an_interrupted_sweep_goes_on(
    lite_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sweep.jsonl"
    chosen = Axes((1,), (1, 2), threads=(1,))
    settings = SweepSettings((lite_bundle.path,), chosen, 4, 0, path)
    parts: list[str] = []
    original = subjects.OnnxRuntimeSubject.run

    def counted(self: Any, part: Any) -> object:
        parts.append(part.key)
        if len(parts) == 8:  # in the third round of three parts
            raise KeyboardInterrupt
        return original(self, part)

    monkeypatch.setattr(subjects.OnnxRuntimeSubject, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    kept = [json.loads(line)["ms"] for line in path.read_text().splitlines()]
    assert len(kept) == 2

    report = run(replace(settings, axes=replace(chosen, shots=(1, 2, 3))))
    left = parts[8:]
    new = "search/t1/k3/whole"
    assert {key: left.count(key) for key in left} == {
        "encode/fp32/t1/b1": 2,
        "search/t1/k1/whole": 2,
        "search/t1/k2/whole": 2,
        new: 4,
    }
    by_name = {series.name: series.values for series in report.series}
    for key in kept[0]:
        values = by_name[f"sweep/efficientnet-lite0-96/{CPU}/{key}"]
        assert len(values) == 4 and values[:2] == [line[key] for line in kept]
    assert any("2 rounds are of an interrupted run" in note for note in report.notes)

    def merely_counted(self: Any, part: Any) -> object:
        parts.append(part.key)
        return original(self, part)

    monkeypatch.setattr(subjects.OnnxRuntimeSubject, "run", merely_counted)
    parts.clear()
    assert len(run(settings).series) == 3  # a finished sweep is measured anew
    assert len(parts) == 12


# --- the report


def test_cells_are_the_batch_by_its_images_and_one_search(report: Report) -> None:
    by_name = {series.name: np.array(series.values) for series in report.series}
    prefix = f"sweep/efficientnet-lite0-96/{CPU}"
    rows = table(report, "matrix")
    assert len(rows) == 2 * (3 + 2)  # a bank of one reference is below 200 rows
    for row in rows:
        encode = by_name[f"{prefix}/encode/fp32/t1/b{row['batch']}"] / row["batch"]
        search = by_name[f"{prefix}/search/t1/k{row['shots']}/{row['bank']}"]
        assert row["encode_ms"] == pytest.approx(np.median(encode))
        assert row["search_ms"] == pytest.approx(np.median(search))
        assert row["p50_ms"] == pytest.approx(np.median(encode + search))
        assert row["p95_ms"] == pytest.approx(np.percentile(encode + search, 95))
        assert row["images_s"] == pytest.approx(1000 / row["p50_ms"]) and row["n"] == 3
        if row["bank"] == "whole":
            assert row["rows"] == row["shots"] * ROWS_OF_ONE


def test_dashes_have_their_reason(report: Report) -> None:
    lines = {line["backend"]: line for line in table(report, "not_timed")}
    assert "provider `cuda` must be" in lines["onnxruntime/cuda"]["reason"]
    assert lines[CPU]["what"] == "K 1; bank 200" and lines[CPU]["n_cells"] == 2
    search = table(report, "search")
    cut = next(row for row in search if row["bank"] == "200")
    assert cut["1"] is None and cut["2"] > 0


def test_what_all_rows_share_stands_in_the_title(report: Report) -> None:
    encoder = next(table for table in report.tables if table.name == "encoder")
    assert encoder.title.endswith(f": efficientnet-lite0-96, {CPU}, fp32, 1 thread")
    assert [column.name for column in encoder.columns] == ["1", "2"]
    search = next(table for table in report.tables if table.name == "search")
    assert [column.name for column in search.columns] == ["bank", "1", "2", "3"]


def test_laws_are_fitted_to_what_was_measured(lite_bundle: Bundle) -> None:
    def times(part: Any) -> list[float]:
        if isinstance(part, EncodePart):
            return [1 + 4 * part.batch] * 3
        return [0.5 + 2e-3 * part.shots * ROWS_OF_ONE] * 3

    sweep = made_up(lite_bundle, Axes((1, 2, 4), (1, 4, 16), threads=(1,)), times)
    found = {law.kind: law for law in find_laws(sweep)}
    assert set(found) == {"scoring", "batch"}
    assert found["scoring"].fit.intercept == pytest.approx(0.5)
    assert found["scoring"].fit.slope == pytest.approx(2.0)  # ms per 1000 rows
    assert found["batch"].fit.intercept == pytest.approx(1)
    assert found["batch"].fit.slope == pytest.approx(4)
    told = document.sweep_report(SweepSettings((lite_bundle.path,)), sweep)
    (check,) = told.checks
    assert check.passed and check.value == pytest.approx(0, abs=1e-9)
    laws = table(told, "laws")
    assert [law["residual"] for law in laws] == pytest.approx([0, 0], abs=1e-9)


def test_threads_and_sizes_are_laws_too(lite_bundle: Bundle, monkeypatch: Any) -> None:
    monkeypatch.setattr(axes, "available_cores", lambda: 4)

    def times(part: Any) -> list[float]:
        return [10.0 + 30 / part.threads] * 3

    small = made_up(lite_bundle, Axes((1,), (1,), threads=(1, 2, 4)), times)
    preprocessing = replace(lite_bundle.manifest.preprocessing, height=192, width=192)
    manifest = replace(lite_bundle.manifest, preprocessing=preprocessing)
    larger = made_up(
        Bundle(lite_bundle.path, manifest),
        Axes((1,), (1,), threads=(1, 2, 4)),
        lambda part: [4 * value for value in times(part)],
    )
    laws = find_laws(Sweep([*small.groups, *larger.groups], [], {}))
    threads = next(law for law in laws if law.kind == "threads")
    assert (threads.fit.intercept, threads.fit.slope) == pytest.approx((10, 30))
    assert "25% of one thread's time does not shrink" in threads.sentence
    points, line = document._law_series(threads, "x")
    assert points.x == [1, 2, 4]
    assert line.y == pytest.approx([10 + 30 / n for n in line.x])
    size = next(law for law in laws if law.kind == "size")
    assert size.fit.intercept == pytest.approx(0, abs=1e-9)
    assert size.fit.slope == pytest.approx(40 / (96 * 96 / 1e6))
    assert "two points lie on any line" in size.sentence


def test_a_law_that_does_not_hold_fails_its_check(lite_bundle: Bundle) -> None:
    def times(part: Any) -> list[float]:
        return [float(part.shots**2) if isinstance(part, SearchPart) else 1.0] * 3

    sweep = made_up(lite_bundle, Axes((1,), (1, 4, 16), threads=(1,)), times)
    told = document.sweep_report(SweepSettings((lite_bundle.path,)), sweep)
    (check,) = told.checks
    assert check.passed is False
    (line,) = table(told, "verdicts")
    assert "does not hold" in line["verdict"] and line["of"] == "search/t1"


def test_plots_show_points_fits_and_the_matrix(report: Report) -> None:
    plots = {plot.name: plot for plot in report.plots}
    scoring = plots["law_scoring"]
    assert [series.style for series in scoring.series] == ["points", "dashed"]
    assert scoring.series[0].x == [k * ROWS_OF_ONE for k in (1, 2, 3)]
    line = scoring.series[1]
    (law,) = (law for law in report.facts["laws"] if law["kind"] == "scoring")
    expected = law["intercept"] + law["slope"] * np.array(line.x) / 1000
    assert line.y == pytest.approx(expected.tolist()) and line.x[-1] == pytest.approx(3 * 333)
    (heatmap,) = (plot for plot in report.plots if plot.kind == "heatmap")
    lines = {series.name: series for series in heatmap.series}
    cut = lines["fp32, 1 thread, bank 200"]
    assert cut.y[cut.x.index("B1 K1")] is None and cut.y[cut.x.index("B1 K2")] > 0


# --- the command


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_sweep_parser(parser.add_subparsers())
    args = parser.parse_args(["sweep", *argv])
    args.command_line = ("cff-bench", "sweep", *argv)
    return args


def test_options_become_settings() -> None:
    args = parse("a", "b", "--batches", "4,1", "--banks", "1024,whole", "--backends", "tensorrt")
    settings = command.read_settings(args)
    assert settings.bundles == (Path("a"), Path("b")) and settings.n == 20
    assert settings.axes == Axes((1, 4), banks=(0, 1024), backends=("tensorrt",))
    quick = command.read_settings(parse("a", "--quick", "--shots", "2"))
    assert quick.n == 5 and quick.axes.batches == (1, 2, 4) and quick.axes.shots == (2,)


def test_the_command_writes_its_report(lite_bundle: Bundle, tmp_path: Path, capsys: Any) -> None:
    out, journal = tmp_path / "sweep.json", tmp_path / "journal.jsonl"
    argv = [str(lite_bundle.path), "--quick", "-n", "1", "--warmup", "0", "--threads", "1"]
    args = parse(*argv, "--batches", "1", "--json", str(out), "--journal", str(journal))
    assert args.run(args) == 0
    report = Report.from_dict(json.loads(out.read_text()))
    assert report.kind == "sweep" and report.command[:2] == ["cff-bench", "sweep"]
    assert "Encoder, ms per image by batch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"bundles": ()}, "`BUNDLE` must be"),
        ({"axes": Axes(batches=(0,))}, "`--batches` must be of 1 to 64"),
        ({"axes": Axes(batches=(65,))}, "`--batches` must be of 1 to 64"),
        ({"axes": Axes(shots=())}, "`--shots` must be"),
        ({"axes": Axes(threads=(-1,))}, "`--threads` must be"),
        ({"axes": Axes(banks=(-1,))}, "`--banks` must be"),
        ({"axes": Axes(backends=("openvino",))}, "`--backends` must be of"),
        ({"n": 0}, "`-n` must be"),
        ({"warmup": -1}, "`-n` must be"),
    ],
)
def test_settings_out_of_range_are_refused(
    change: dict[str, Any], expected: str, settings: SweepSettings
) -> None:
    with pytest.raises(UsageError, match=expected):
        measurement.measure_sweep(replace(settings, **change))


def test_words_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="`--shots` must be numbers"):
        command.read_settings(parse("a", "--shots", "four"))


def test_a_sweep_of_nothing_that_runs_is_an_error(settings: SweepSettings) -> None:
    chosen = replace(SMALL, backends=("onnxruntime/cuda",))
    with pytest.raises(BackendError, match="one of `--backends` must run here"):
        run(replace(settings, axes=chosen))
