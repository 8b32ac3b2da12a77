"""Replay: planted changes flip exactly the parts between the two thresholds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_runtime import Inspector, Profile
from cff_runtime.errors import ProfileMismatchError, UsageError
from cff_runtime.replay.known import KnownParts, find_parts
from cff_runtime.replay.rescoring import Failure, Judgement, Rescored, Side, relative_score, rescore
from cff_runtime.replay.tally import Tally

Parts = list[NDArray[np.uint8]]


class CountingBackend:
    """Counts what it encodes."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.n_encoded = 0

    def encode(self, image: Any, text: Any) -> Any:
        self.n_encoded += 1
        return self._backend.encode(image, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@pytest.fixture
def inspector(numpy_inspector: Callable[..., Inspector]) -> Inspector:
    plain = numpy_inspector()
    return Inspector(plain.bundle, CountingBackend(plain._backend))


@pytest.fixture
def profile(inspector: Inspector, good_parts: Parts) -> Profile:
    return inspector.enroll(good_parts, "ring")


@pytest.fixture
def folder(tmp_path: Path, draw_part: Callable[..., NDArray[np.uint8]]) -> Path:
    root = tmp_path / "parts"
    for name, defective in (("good", False), ("bar", True)):
        (root / name).mkdir(parents=True)
        for seed in range(5):
            part = draw_part(40 + seed, defective)
            Image.fromarray(part).save(root / name / f"{seed}.png")
    return root


def move(profile: Profile, value: float, review: float | None = None) -> Profile:
    review = value if review is None else review
    return replace(profile, threshold=replace(profile.threshold, value=value, review=review))


def side(inspector: Inspector, profile: Profile) -> Side:
    return Side(inspector, inspector._backend, profile)


def run(images: Sequence[Path], old: Side, new: Side, known: KnownParts | None = None) -> Tally:
    tally = Tally()
    for outcome in rescore(images, old, new, known or KnownParts()):
        if isinstance(outcome, Failure):
            tally.failures.append(outcome)
        else:
            tally.add(outcome[0])
    return tally


@pytest.mark.parametrize("n_between", [0, 1, 3, 10])
def test_a_moved_threshold_flips_exactly_the_parts_between(
    inspector: Inspector, profile: Profile, folder: Path, n_between: int
) -> None:
    images = find_parts([folder])
    scores = {str(path): inspector.inspect(path, profile).score for path in images}
    ordered = sorted(scores.values())
    borders = [ordered[0] - 1.0, *ordered, ordered[-1] + 1.0]
    low, high = borders[0], (borders[n_between] + borders[n_between + 1]) / 2

    tally = run(images, *(side(inspector, move(profile, value)) for value in (low, high)))

    expected = {path for path, score in scores.items() if low < score <= high}
    assert len(expected) == n_between
    assert {part.image for part in tally.changed} == expected
    assert all((p.old.verdict, p.new.verdict) == ("reject", "pass") for p in tally.changed)
    assert tally.verdicts["reject", "pass"] == n_between
    assert tally.n_scored == len(images)


def test_a_review_band_turns_rejects_to_review(
    inspector: Inspector, profile: Profile, folder: Path
) -> None:
    images = find_parts([folder])
    scores = sorted(inspector.inspect(path, profile).score for path in images)
    old = move(profile, scores[0] - 1.0)
    new = move(profile, scores[6], review=scores[2])  # 3 pass, 4 to review, 3 rejected

    tally = run(images, side(inspector, old), side(inspector, new))

    assert dict(tally.verdicts) == {
        ("reject", "pass"): 3,
        ("reject", "review"): 4,
        ("reject", "reject"): 3,
    }
    assert "3 reject to pass, 4 reject to review" in tally.sentence()


def test_the_same_profile_changes_nothing_and_encodes_once(
    inspector: Inspector, profile: Profile, folder: Path
) -> None:
    images = find_parts([folder])
    backend: Any = inspector._backend
    before = backend.n_encoded
    tally = run(images, side(inspector, profile), side(inspector, profile))
    assert not tally.changed
    assert tally.largest_shift() == 0.0
    assert backend.n_encoded - before == len(images)


def test_another_text_is_encoded_for_each_side(
    inspector: Inspector, profile: Profile, folder: Path
) -> None:
    images = find_parts([folder])
    backend: Any = inspector._backend
    before = backend.n_encoded
    other = replace(profile, condition=profile.condition[:, ::-1].copy())
    run(images, side(inspector, profile), side(inspector, other))
    assert backend.n_encoded - before == 2 * len(images)


def test_both_ways_of_scoring_agree(inspector: Inspector, profile: Profile, folder: Path) -> None:
    images = find_parts([folder])
    other = Inspector(inspector.bundle, inspector._backend)
    shared = run(images, side(inspector, profile), side(inspector, move(profile, 3.0)))
    apart = run(images, side(inspector, profile), side(other, move(profile, 3.0)))
    assert shared.relative_scores == apart.relative_scores


def test_a_broken_image_is_a_failure_and_not_the_end(
    inspector: Inspector, profile: Profile, folder: Path
) -> None:
    (folder / "good" / "2b.png").write_bytes(b"no image")
    tally = run(find_parts([folder]), side(inspector, profile), side(inspector, profile))
    assert tally.n_scored == 10
    assert [Path(failure.image).name for failure in tally.failures] == ["2b.png"]
    assert "1 image could not be scored" in tally.sentence()


def test_a_profile_of_another_bundle_is_refused(
    inspector: Inspector, profile: Profile, folder: Path
) -> None:
    foreign = replace(profile, bundle_id="0" * 64)
    with pytest.raises(ProfileMismatchError):
        run(find_parts([folder]), side(inspector, profile), side(inspector, foreign))


def test_relative_scores_are_1_at_the_threshold_and_order_as_verdicts_do() -> None:
    assert relative_score(12.0, 12.0) == 1.0
    assert relative_score(6.0, 12.0) == 0.5
    assert relative_score(-2.0, -2.0) == 1.0
    assert relative_score(0.0, 0.0) == 1.0
    for threshold in (-3.0, 0.0, 0.5, 12.0):
        for score in (-5.0, -3.0, 0.0, 0.4, 11.0, 13.0):
            assert (relative_score(score, threshold) > 1.0) == (score > threshold)


@pytest.mark.parametrize(
    ("old", "new", "is_good", "is_better"),
    [
        ("pass", "reject", True, False),
        ("pass", "reject", False, True),
        ("reject", "review", True, True),
        ("reject", "review", False, False),
        ("review", "pass", True, True),
        ("pass", "pass", True, None),
        ("pass", "reject", None, None),
    ],
)
def test_a_change_is_judged_by_what_is_known(
    old: str, new: str, is_good: bool | None, is_better: bool | None
) -> None:
    part = Rescored("a.png", Judgement(1.0, 1.0, old), Judgement(1.0, 1.0, new), is_good)
    assert part.is_better is is_better


def test_rates_count_known_parts_by_hand() -> None:
    tally = Tally()
    rows = [("pass", "reject", True)] * 2 + [("pass", "pass", True)] * 6
    rows += [("reject", "pass", False), ("reject", "review", False), ("reject", "reject", False)]
    rows += [("pass", "reject", None)]
    for old, new, good in rows:
        tally.add(Rescored("x", Judgement(0.0, 0.0, old), Judgement(0.0, 0.5, new), good))
    assert tally.rates(is_new=False) == {"false_rejects": 0.0, "missed": 0.0, "review": 0.0}
    assert tally.rates(is_new=True) == pytest.approx(
        {"false_rejects": 2 / 8, "missed": 1 / 3, "review": 1 / 11}
    )
    assert (tally.n_better, tally.n_worse) == (0, 4)
    assert "of parts nothing is known of" in tally.sentence()


class TestKnownParts:
    def test_folders_beside_good_are_defects_and_others_unknown(self, tmp_path: Path) -> None:
        for name in ("test/good/1.png", "test/crack/1.png", "line/monday/1.png"):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).touch()
        known = KnownParts()
        assert known.is_good(tmp_path / "test/good/1.png") is True
        assert known.is_good(tmp_path / "test/crack/1.png") is False
        assert known.is_good(tmp_path / "line/monday/1.png") is None

    def test_a_file_names_parts_by_path_or_name(self, tmp_path: Path) -> None:
        listed = tmp_path / "known.csv"
        listed.write_text("image,known\n1.png,good\nmonday/2.png, scratch\n\n")
        known = KnownParts.read(listed)
        assert known.is_good(Path("any/1.png")) is True
        assert known.is_good(Path("line/monday/2.png")) is False
        assert known.is_good(Path("line/tuesday/2.png")) is None

    @pytest.mark.parametrize("text", ["1.png\n", "a,b,c\n", "1.png,\n", "", "image,known\n"])
    def test_other_files_are_refused(self, tmp_path: Path, text: str) -> None:
        listed = tmp_path / "known.csv"
        listed.write_text(text)
        with pytest.raises(UsageError):
            KnownParts.read(listed)

    def test_a_missing_or_binary_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        for name in ("none", "binary"):
            with pytest.raises(UsageError, match="--known"):
                KnownParts.read(tmp_path / name)

    def test_parts_are_found_at_any_depth_without_masks_and_hidden_files(
        self, tmp_path: Path
    ) -> None:
        names = ("a/b/1.png", "2.JPG", "ground_truth/x/1_mask.png", ".cache/3.png", "a/notes.txt")
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        found = [path.relative_to(tmp_path).as_posix() for path in find_parts([tmp_path])]
        assert found == ["2.JPG", "a/b/1.png"]
        assert find_parts([tmp_path / "2.JPG", tmp_path / "2.JPG"]) == [tmp_path / "2.JPG"]

    def test_nothing_to_find_is_refused(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "missing"):
            with pytest.raises(UsageError):
                find_parts([path])
