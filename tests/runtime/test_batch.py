"""Batches on a local cluster of two workers, against the inspector image by image."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from numpy.typing import NDArray
from PIL import Image

from cff_runtime import Bundle, Inspector, Profile, Result
from cff_runtime.batch import BatchSummary, run_batch
from cff_runtime.batch_results import (
    block_name,
    claim_folder,
    finished_images,
    open_path,
    write_part,
    write_results,
)
from cff_runtime.batch_source import ImageKey, list_source
from cff_runtime.batch_workers import MAX_DEATHS, score_block, split_blocks
from cff_runtime.cli import main
from cff_runtime.errors import (
    BackendError,
    ProfileMismatchError,
    StorageError,
    UsageError,
)
from cff_runtime.storage import sha256_file

pytestmark = [
    # Ray Data sets its own deprecated settings when its context is made
    pytest.mark.filterwarnings(r"ignore:`use_.*deprecated:DeprecationWarning:ray\.data\.context"),
]
DrawPart = Callable[..., NDArray[np.uint8]]
RunPython = Callable[..., Any]
SECONDS = 60.0


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A Ray cluster of two CPUs, which `run_batch` finds and leaves running."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=128 << 20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def inspector(lite_bundle: Bundle) -> Inspector:
    """One thread, as each worker has."""
    return Inspector.open(lite_bundle.path, options={"threads": 1})


@pytest.fixture(scope="module")
def profile_file(lite_profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("profile") / "ring.safetensors"
    lite_profile.save(path)
    return path


@pytest.fixture(scope="module")
def profile(profile_file: Path) -> Profile:
    return Profile.load(profile_file)


@pytest.fixture(scope="module")
def parts(draw_part: DrawPart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine parts in nested folders, every third one defective; names with blanks and accents."""
    folder: Path = tmp_path_factory.mktemp("my parts")
    for index in range(9):
        inside = folder / ("früh schicht", "spät schicht/テスト", ".")[index % 3]
        inside.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_part(index, index % 3 == 0)).save(inside / f"part {index}.png")
    return folder


@pytest.fixture
def batch(
    two_workers: None, lite_bundle: Bundle, profile_file: Path, tmp_path: Path
) -> Callable[..., BatchSummary]:
    """Return ``batch(source, out=tmp_path / "out", **options)`` on two workers."""

    def run(source: Path, out: Path = tmp_path / "out", **options: Any) -> BatchSummary:
        return run_batch(lite_bundle.path, source, profile_file, out, **options)

    return run


def _rows(out: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(out / "results.parquet").to_pylist())


def _expected(result: Result) -> dict[str, Any]:
    """Return what a row must say of a result, times apart."""
    return {
        "verdict": result.verdict,
        "score": result.score,
        "threshold": result.threshold,
        "text_score": result.text_score,
        "regions": [
            {
                "x": region.box[0],
                "y": region.box[1],
                "width": region.box[2],
                "height": region.box[3],
                "area_px": region.area_px,
                "peak": region.peak,
            }
            for region in result.regions
        ],
        "error": None,
    }


def _check_rows(
    rows: list[dict[str, Any]], paths: list[Path], inspector: Inspector, profile: Profile
) -> None:
    """Every path has one row, in order, with what the inspector says to the last digit."""
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    for row, path in zip(rows, paths, strict=True):
        expected = _expected(inspector.inspect(path, profile))
        assert {name: row[name] for name in expected} == expected
        status = path.stat()
        assert (row["size"], row["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
        assert row["total_ms"] > 0


# ---- whole batches


def test_rows_are_the_inspectors_to_the_last_digit(
    batch: Callable[..., BatchSummary],
    parts: Path,
    inspector: Inspector,
    profile: Profile,
    profile_file: Path,
    tmp_path: Path,
) -> None:
    seen: list[tuple[int, int]] = []

    summary = batch(parts, progress=lambda done, total: seen.append((done, total)))

    paths = [Path(root) / name for root, _, names in os.walk(parts) for name in names]
    rows = _rows(tmp_path / "out")
    _check_rows(rows, [Path(row["image"]) for row in rows], inspector, profile)
    assert sorted(row["image"] for row in rows) == sorted(map(str, paths))
    verdicts = [row["verdict"] for row in rows]
    assert (summary.n_pass, summary.n_reject) == (verdicts.count("pass"), verdicts.count("reject"))
    assert (summary.n_images, summary.n_scored, summary.n_errors) == (9, 9, 0)
    assert summary.n_reject >= 3
    assert (summary.n_workers, summary.threads) == (2, 1)
    assert summary.images_per_second > 9 / summary.seconds
    assert seen[-1] == (9, 9) and len(seen) == 5  # blocks of two, the last of one
    assert not list((tmp_path / "out" / "open").iterdir())
    assert json.loads((tmp_path / "out" / "batch.json").read_text()) == {
        "schema": 1,
        "bundle_id": inspector.bundle.manifest.id,
        "profile_sha256": sha256_file(profile_file),
    }


def test_a_second_run_scores_what_is_new_or_changed(
    batch: Callable[..., BatchSummary],
    parts: Path,
    draw_part: DrawPart,
    inspector: Inspector,
    profile: Profile,
    tmp_path: Path,
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(parts, source)
    batch(source)
    before = {path: path.stat().st_ino for path in (out / "parts").iterdir()}

    assert batch(source).n_scored == 0
    changed, added = source / "part 2.png", source / "part 10.png"
    Image.fromarray(draw_part(50, True)).save(changed)
    Image.fromarray(draw_part(51)).save(added)
    (source / "part 5.png").unlink()
    summary = batch(source)

    assert (summary.n_images, summary.n_scored) == (9, 2)
    after = {path: path.stat().st_ino for path in (out / "parts").iterdir()}
    assert before.items() < after.items() and len(after) == len(before) + 2
    rows = _rows(out)
    _check_rows(rows, [Path(row["image"]) for row in rows], inspector, profile)
    assert {str(changed), str(added)} < {row["image"] for row in rows}


def test_images_that_cannot_be_read_become_rows(
    batch: Callable[..., BatchSummary], parts: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    good = source / "good.png"
    shutil.copy(parts / "part 2.png", good)
    (source / "damaged.png").write_bytes(good.read_bytes()[:500])
    (source / "text.jpg").write_text("not an image")
    Image.new("RGB", (8, 8)).save(source / "tiny.png")
    (source / "folder.png").mkdir()
    (source / "link.png").symlink_to(source / "nowhere.png")
    listed = tmp_path / "list.txt"
    names = ("good.png", "damaged.png", "text.jpg", "tiny.png", "folder.png", "link.png", "no.png")
    listed.write_text("\n".join(f"source/{name}" for name in names))

    summary = batch(listed)

    rows = {Path(row["image"]).name: row for row in _rows(tmp_path / "out")}
    assert tuple(rows) == names
    assert (summary.n_images, summary.n_pass + summary.n_reject, summary.n_errors) == (7, 1, 6)
    assert rows["good.png"]["error"] is None
    for name in names[1:]:
        assert str(source / name) in rows[name]["error"]
        assert rows[name]["verdict"] is None and rows[name]["score"] is None
    assert "at least 16 x 16 px" in rows["tiny.png"]["error"]
    assert rows["no.png"]["size"] == -1


def _ray_workers() -> list[int]:
    """Return the actors that Ray started below this process."""

    def parent(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                not entry.name.isdecimal()
                or b"ray::MapWorker" not in (entry / "cmdline").read_bytes()
            ):
                continue
            pid = int(entry.name)
            while pid not in (0, 1, os.getpid()):
                pid = parent(pid)
        except OSError:  # gone meanwhile
            continue
        if pid == os.getpid():
            found.append(int(entry.name))
    return found


def test_a_killed_worker_costs_its_open_block_alone(
    batch: Callable[..., BatchSummary],
    draw_part: DrawPart,
    inspector: Inspector,
    profile: Profile,
    tmp_path: Path,
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    large = Image.fromarray(draw_part(3, True)).resize((1500, 1200))  # slow to decode
    large.save(source / "000.png")
    for index in range(1, 80):
        os.link(source / "000.png", source / f"{index:03}.png")
    killed: list[tuple[int, dict[str, int]]] = []

    def kill_one() -> None:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            finished = {path.name: path.stat().st_ino for path in out.glob("parts/*.parquet")}
            if finished and (workers := _ray_workers()):
                os.kill(workers[0], signal.SIGKILL)
                killed.append((workers[0], finished))
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary = batch(source)
    killer.join()

    ((_, finished),) = killed
    assert 0 < len(finished) < 8  # in the middle: there are eight blocks of ten
    assert (summary.n_images, summary.n_scored, summary.n_errors) == (80, 80, 0)
    after = {path.name: path.stat().st_ino for path in out.glob("parts/*.parquet")}
    assert len(after) == 8
    assert finished.items() < after.items()  # none of them was written again
    in_parts = [
        row["image"]
        for path in out.glob("parts/*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    assert len(in_parts) == len(set(in_parts)) == 80
    rows = _rows(out)
    assert [row["image"] for row in rows] == [str(source / f"{i:03}.png") for i in range(80)]
    expected = _expected(inspector.inspect(source / "000.png", profile))
    assert all({name: row[name] for name in expected} == expected for row in rows)


def test_workers_that_cannot_open_the_bundle_end_the_batch(
    batch: Callable[..., BatchSummary], parts: Path, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match=r"Ray must keep its workers alive: .*option of"):
        batch(parts, options={"colour": "red"})
    assert not (tmp_path / "out" / "results.parquet").exists()


def test_unknown_backend_is_told_before_any_worker_starts(
    batch: Callable[..., BatchSummary], parts: Path
) -> None:
    with pytest.raises(UsageError, match="`backend` must be one of onnxruntime"):
        batch(parts, backend="abacus")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_workers": 0}, "`--workers` must be 1 or more, got 0"),
        ({"n_workers": 3}, "must fit the cluster's 2 CPUs, got 3 x 1"),
        ({"n_workers": 2, "options": {"threads": 2}}, "must fit the cluster's 2 CPUs, got 2 x 2"),
        ({"options": {"threads": -1}}, "`--threads` must be 0 or more, got -1"),
        (
            {"options": {"provider": "cuda"}},
            "`cuda` must have a GPU for each worker, got 1 ",
        ),
    ],
)
def test_workers_must_fit_the_cluster(
    batch: Callable[..., BatchSummary], parts: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        batch(parts, **options)


def test_one_worker_gets_every_core(batch: Callable[..., BatchSummary], parts: Path) -> None:
    summary = batch(parts / "früh schicht", n_workers=1)
    assert (summary.n_workers, summary.threads) == (1, 2)


# ---- the command


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_the_command_prints_a_summary(
    two_workers: None,
    lite_bundle: Bundle,
    profile_file: Path,
    parts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    table = tmp_path / "parts.parquet"
    paths = sorted(str(path) for path in parts.rglob("*.png"))
    pq.write_table(pa.table({"file": [*paths, str(tmp_path / "none.png")]}), table)
    command = ("batch", lite_bundle.path, table, "--profile", profile_file, "--out", out)

    code, printed, errors = _run(capsys, *command, "--column", "file", "--workers", 2, "--json")

    facts = json.loads(printed)
    assert code == 1  # an image failed
    assert (facts["n_images"], facts["n_errors"], facts["n_scored"]) == (10, 1, 10)
    assert facts["results"] == str(out / "results.parquet")
    assert "scored 10 of 10" in errors
    assert "error: 1 of 10 images failed" in errors

    (tmp_path / "list.txt").write_text("\n".join(paths))
    command = (*command[:2], tmp_path / "list.txt", *command[3:])
    code, printed, errors = _run(capsys, *command)
    assert (code, errors) == (0, "")
    assert "9 images:" in printed and "0 errors; 0 scored now" in printed


def test_a_cluster_of_its_own_and_nothing_on_stdout_but_the_summary(
    lite_bundle: Bundle, profile_file: Path, parts: Path, tmp_path: Path, run_python: RunPython
) -> None:
    code = "import sys; from cff_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ("batch", lite_bundle.path, parts / "früh schicht", "--profile", profile_file)

    done = run_python(code, *arguments, "--out", tmp_path / "out", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_images"] == 3
    assert "Traceback" not in done.stderr and "WARNING" not in done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_there_is_named_at_once(
    address: str,
    lite_bundle: Bundle,
    profile_file: Path,
    parts: Path,
    tmp_path: Path,
    run_python: RunPython,
) -> None:
    code = "import sys; from cff_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = (
        "batch",
        lite_bundle.path,
        parts,
        "--profile",
        profile_file,
        "--out",
        tmp_path / "o",
    )

    done = run_python(code, *arguments, "--ray", address)

    assert done.returncode == 1
    assert f"error: `--ray` must be local, auto or HOST:PORT of a Ray cluster, got {address!r}" in (
        done.stderr
    )
    assert "Traceback" not in done.stderr


def test_importing_the_command_loads_neither_ray_nor_pyarrow(run_python: RunPython) -> None:
    names = ("ray", "pyarrow", "pandas")
    code = f"import sys, cff_runtime.cli; print([n for n in {names} if n in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["ray", "pyarrow"])
def test_a_box_without_ray_is_told_what_to_install(
    missing: str, run_python: RunPython, tmp_path: Path
) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from cff_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ("batch", tmp_path, tmp_path, "--profile", tmp_path, "--out", tmp_path)

    done = run_python(code, *arguments)

    assert done.returncode == 1
    assert "install cff-edge[ray] with pip" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ---- sources


def test_a_folder_is_searched_at_every_depth(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/c/3.jpeg", "a.tif", ".hidden/4.png", "b/.5.png", "b/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    names = [Path(key.image).relative_to(tmp_path).as_posix() for key in list_source(tmp_path)]
    assert names == ["a.tif", "b/2.PNG", "b/c/3.jpeg"]


def test_lists_and_parquet_start_at_their_own_folder(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    lines = ["one.png", "../two ü.png", "", f"{tmp_path}/three.png", "sub/../one.png"]
    (folder / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    pq.write_table(pa.table({"image": [line for line in lines if line]}), folder / "l.parquet")
    expected = [folder / "one.png", tmp_path / "two ü.png", tmp_path / "three.png"]
    for name in ("list.txt", "l.parquet"):
        images = list_source(folder / name)
        assert [key.image for key in images] == [str(path) for path in expected]
        assert [os.fsdecode(path) for path in images.values()] == [key.image for key in images]


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes(b"12345")
    (tmp_path / "list").write_bytes(b"caf\xe9.png\n")
    for source in (tmp_path, tmp_path / "list"):
        ((key, path),) = list_source(source).items()
        assert path == name
        assert key.image == f"{tmp_path}/caf\\xe9.png"
        assert key.size == 5


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "image.png").write_bytes(b"x")
    (tmp_path / "binary").write_bytes(b"a\0b")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    (tmp_path / "folder").mkdir()
    pq.write_table(pa.table({"a": ["x.png"], "b": [1]}), tmp_path / "table.parquet")
    pq.write_table(pa.table({"a": ["x.png", None]}), tmp_path / "gap.parquet")
    for name, column, words in (
        ("empty.txt", None, "must name at least one image, got none"),
        ("folder", None, "must name at least one image, got none"),
        ("nowhere", None, "must be a folder, a list or a Parquet file; check the path"),
        ("image.png", None, "got an image; use `cff-run inspect`"),
        ("binary", None, "one path per line, got binary data"),
        ("damaged.parquet", None, "must be a readable Parquet file"),
        ("table.parquet", None, r"must be a column of .* \(a, b\), got 'image'"),
        ("table.parquet", "b", "column 'b' of .* must hold paths, got 1 in row 0"),
        ("gap.parquet", "a", "must hold paths, got None in row 1"),
        ("folder", "a", "`--column` must go with a Parquet file"),
    ):
        with pytest.raises(UsageError, match=words):
            list_source(tmp_path / name, column)


# ---- the folder of results


def test_a_folder_belongs_to_one_bundle_and_profile(
    batch: Callable[..., BatchSummary],
    lite_bundle: Bundle,
    lite_inspector: Inspector,
    good_parts: list[NDArray[np.uint8]],
    parts: Path,
    tmp_path: Path,
) -> None:
    batch(parts / "früh schicht")
    other = tmp_path / "other.safetensors"
    lite_inspector.enroll(good_parts[:1], "other").save(other)
    with pytest.raises(UsageError, match="must hold results of this bundle and profile"):
        run_batch(lite_bundle.path, parts, other, tmp_path / "out")
    with pytest.raises(UsageError, match="must be a new folder or one of an earlier batch"):
        run_batch(lite_bundle.path, parts, other, parts)


def test_a_profile_of_another_bundle_is_refused(
    lite_bundle: Bundle, lite_profile: Profile, parts: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    foreign = tmp_path / "foreign.safetensors"
    replace(lite_profile, bundle_id="0" * 64).save(foreign)
    with pytest.raises(ProfileMismatchError):
        run_batch(lite_bundle.path, parts, foreign, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _key(name: str) -> ImageKey:
    return ImageKey(name, 3, 4)


def _row(name: str, **fields: Any) -> dict[str, Any]:
    return {**_key(name)._asdict(), "verdict": "pass", "score": 0.1, **fields}


def test_results_have_every_image_once_in_order_of_the_source(tmp_path: Path) -> None:
    write_part(tmp_path, "a", [_row("x"), _row("old")])
    write_part(tmp_path, "b", [_row("z", verdict=None, error="bad"), _row("x")])
    assert finished_images(tmp_path) == {_key("x"), _key("old"), _key("z")}
    counts = write_results(tmp_path, [_key("z"), _key("x")])
    assert counts == {"pass": 1, "review": 0, "reject": 0, "errors": 1}
    assert [row["image"] for row in _rows(tmp_path)] == ["z", "x"]
    with pytest.raises(StorageError, match="1 have none, such as `y`; run the same command again"):
        write_results(tmp_path, [_key("x"), _key("y")])


def test_damaged_and_foreign_parts_are_named(tmp_path: Path) -> None:
    write_part(tmp_path, "a", [_row("x")])
    damaged = tmp_path / "parts" / "b.parquet"
    damaged.write_bytes((tmp_path / "parts" / "a.parquet").read_bytes()[:-20])
    with pytest.raises(StorageError, match=r"b\.parquet.*delete it and run again"):
        finished_images(tmp_path)
    pq.write_table(pa.table({"image": ["x"]}), damaged)
    with pytest.raises(StorageError, match=r"b\.parquet` must be a part of a batch"):
        finished_images(tmp_path)


def test_a_damaged_mark_is_named(tmp_path: Path) -> None:
    (tmp_path / "batch.json").write_text("{")
    with pytest.raises(UsageError, match=r"batch\.json` must be readable"):
        claim_folder(tmp_path, "a", "b")


# ---- blocks


class _Death(BaseException):
    """What no handler catches, as a kill."""


class _Mortal:
    """An inspector that dies of one image."""

    def __init__(self, inspector: Inspector, fatal: NDArray[np.uint8]) -> None:
        self._inspector, self._fatal = inspector, fatal
        self.n_calls = 0

    def inspect(self, image: NDArray[np.uint8], profile: Profile) -> Result:
        self.n_calls += 1
        if np.array_equal(image, self._fatal):
            raise _Death
        return self._inspector.inspect(image, profile)


def test_an_image_that_kills_its_worker_is_left_out_in_the_end(
    inspector: Inspector, profile: Profile, parts: Path, tmp_path: Path
) -> None:
    images = list(list_source(parts).items())[:4]
    fatal = np.asarray(Image.open(os.fsdecode(images[1][1])))
    mortal: Any = _Mortal(inspector, fatal)

    for _ in range(MAX_DEATHS):
        with pytest.raises(_Death):
            score_block(mortal, profile, tmp_path, images)
        assert finished_images(tmp_path) == set()
    score_block(mortal, profile, tmp_path, images)

    assert mortal.n_calls == 2 * MAX_DEATHS + 3
    write_results(tmp_path, [key for key, _ in images])
    rows = _rows(tmp_path)
    assert [row["error"] is None for row in rows] == [True, False, True, True]
    assert f"its worker died {MAX_DEATHS} times" in rows[1]["error"]
    assert not open_path(tmp_path, block_name(key for key, _ in images)).exists()

    score_block(mortal, profile, tmp_path, images)  # as Ray may ask for it once more
    assert mortal.n_calls == 2 * MAX_DEATHS + 3


def test_a_torn_note_counts_for_nothing(
    inspector: Inspector, profile: Profile, parts: Path, tmp_path: Path
) -> None:
    images = list(list_source(parts).items())[:2]
    note = open_path(tmp_path, block_name(key for key, _ in images))
    note.parent.mkdir(parents=True)
    note.write_text('{"at": 0, "dea')
    score_block(inspector, profile, tmp_path, images)
    assert finished_images(tmp_path) == {key for key, _ in images}


def test_blocks_keep_order_and_have_names_of_their_own() -> None:
    images = [(_key(str(index)), b"") for index in range(7)]
    blocks = split_blocks(images, 3)
    assert [len(block) for block in blocks] == [3, 3, 1]
    assert [item for block in blocks for item in block] == images
    names = {block_name(key for key, _ in block) for block in [*blocks, images, images[::-1]]}
    assert len(names) == 5
