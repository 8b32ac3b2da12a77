"""`cff-bench all`: parts one after the other, resumed, failing alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cff_bench import cli
from cff_bench.report import Check, Report, all_parts
from cff_bench.report.all_parts import PARTS, AllSettings, measure_part, run_all
from cff_bench.report.reading import load_reports, save_reports
from cff_runtime.errors import UsageError


def settings(tmp_path: Path, **changes: object) -> AllSettings:
    values = {"out": tmp_path / "bench", "bundle": Path("b"), "profile": Path("p")}
    return AllSettings(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace measuring by a report of the part's name; `peers` fails."""
    done: list[list[str]] = []

    def measure(arguments: Sequence[str], path: Path) -> str:
        done.append(list(arguments))
        if arguments[0] == "peers":
            return "no bundle"
        checks = [Check.of("a", 2.0, 1.0)]
        save_reports(path, [Report(arguments[0], arguments[0], [], {}, {}, checks=checks)])
        told = {"arguments": list(arguments), "seconds": 30.0}
        path.with_suffix(".command").write_text(all_parts.json.dumps(told))
        return ""

    monkeypatch.setattr(all_parts, "measure_part", measure)
    return done


def test_parts_run_in_order_and_one_that_fails_is_told(
    tmp_path: Path, measured: list[list[str]]
) -> None:
    lines: list[str] = []
    reports, failures = run_all(settings(tmp_path), lines.append)
    quick = [name for name in PARTS if name != "roofline-vit-l"]
    assert [arguments[0] for arguments in measured] == quick
    expected = [name for name in quick if name != "peers"]
    assert [report.kind for report in reports] == expected
    assert failures == ["peers was not measured: no bundle"]
    assert [report.kind for report in load_reports(tmp_path / "bench/report.json")] == expected
    page = (tmp_path / "bench/report.html").read_text()
    assert "peers was not measured: no bundle" in page
    assert "<dd>3.0 min: latency 30 s, table6 30 s, roofline 30 s, " in page
    assert any(line.startswith(f"[1/{len(quick)}] cff-bench latency b") for line in lines)
    assert "    FAILED: no bundle" in lines


def test_what_is_there_is_not_measured_again(tmp_path: Path, measured: list[list[str]]) -> None:
    run_all(settings(tmp_path), lambda line: None)
    measured.clear()
    run_all(settings(tmp_path), lambda line: None)
    assert [arguments[0] for arguments in measured] == ["peers"]
    measured.clear()
    run_all(settings(tmp_path, only=("sweep", "roofline"), again=True), lambda line: None)
    assert [arguments[0] for arguments in measured] == ["sweep", "roofline"]
    measured.clear()
    run_all(settings(tmp_path, only=("roofline", "sweep"), is_full=True), lambda line: None)
    assert [arguments[0] for arguments in measured] == ["roofline", "sweep"]  # other commands


def test_a_damaged_part_is_measured_again(tmp_path: Path, measured: list[list[str]]) -> None:
    only = settings(tmp_path, only=("roofline",))
    run_all(only, lambda line: None)
    (tmp_path / "bench/parts/roofline.json").write_text("{")
    measured.clear()
    run_all(only, lambda line: None)
    assert len(measured) == 1


def test_unknown_parts_and_nothing_at_all_are_refused(
    tmp_path: Path, measured: list[list[str]]
) -> None:
    with pytest.raises(UsageError, match="must name latency"):
        run_all(settings(tmp_path, only=("lunch",)), lambda line: None)
    with pytest.raises(UsageError, match="no bundle"):
        run_all(settings(tmp_path, only=("peers",)), lambda line: None)
    with pytest.raises(UsageError, match="roofline-vit-l must be measured with `--full`"):
        run_all(settings(tmp_path, only=("roofline-vit-l",)), lambda line: None)


@pytest.mark.parametrize("is_full", [False, True])
def test_every_part_is_a_command_that_parses(tmp_path: Path, is_full: bool) -> None:
    parser = cli._build_parser()
    measured = [words(settings(tmp_path, is_full=is_full)) for words in PARTS.values()]
    assert measured.count([]) == (0 if is_full else 1)
    for words in filter(None, measured):
        assert callable(parser.parse_args([*words, "--json", "f"]).run)


def test_a_part_in_a_process_of_its_own_tells_its_error(tmp_path: Path) -> None:
    problem = measure_part(["compare", "a.json", "b.json"], tmp_path / "part.json")
    assert problem.startswith("`a.json` must be a report")
    assert not (tmp_path / "part.json").exists()


def test_the_command(
    tmp_path: Path, measured: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo/bundle").mkdir(parents=True)
    profile = tmp_path / "demo/cup.profile.safetensors"
    arguments = ["all", str(tmp_path / "demo/bundle"), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    assert "make demo" in capsys.readouterr().err
    profile.write_bytes(b"")
    assert cli.main([*arguments, "--only", "latency"]) == 0
    assert "--image" not in measured[-1]
    assert measured[-1][:4] == ["latency", str(tmp_path / "demo/bundle"), "--profile", str(profile)]
    assert "1 reports, 0 of 1 checks without fault" in capsys.readouterr().out
    assert cli.main([*arguments, "--only", "latency", "--check"]) == 1
    drawn = tmp_path / "demo/synthetic/cup/test/hole/000.png"
    drawn.parent.mkdir(parents=True)
    drawn.write_bytes(b"")
    cli.main([*arguments, "--only", "latency"])
    assert measured[-1][4:6] == ["--image", str(drawn)]
    assert cli.main([*arguments, "--only", "latency,peers"]) == 1
