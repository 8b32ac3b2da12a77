"""The command `cff-run threshold`: show the scores behind a profile's thresholds, and move them."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cff_runtime.errors import UsageError
from cff_runtime.opening import add_backend_arguments

if TYPE_CHECKING:  # showing a threshold needs no backend
    from cff_runtime.inspector import Inspector
    from cff_runtime.profile import Profile
    from cff_runtime.thresholds.threshold import Threshold


def add_threshold_parser(commands: Any) -> None:
    """Add ``threshold`` to the subparsers of ``cff-run``."""
    parser = commands.add_parser(
        "threshold",
        help="show, explain and move a profile's thresholds",
        description="Show the scores behind a profile's thresholds and what they promise. With "
        "--reject or --review a person sets them; with --max-false-reject, --max-false-accept, "
        "--good or --defects they are chosen anew. The profile is rewritten, no bundle exported.",
    )
    parser.add_argument("profile", type=Path, metavar="PROFILE")
    parser.add_argument("--reject", type=float, metavar="SCORE", help="reject what is above it")
    parser.add_argument("--review", type=float, metavar="SCORE", help="to a person what is above")
    parser.add_argument(
        "--max-false-reject", type=share, metavar="SHARE", help="of good parts, such as 1%% or 0.01"
    )
    parser.add_argument(
        "--max-false-accept", type=share, metavar="SHARE", help="of defective parts; --defects"
    )
    parser.add_argument(
        "--confidence", type=share, metavar="SHARE", help="of the bounds (default: 95%%)"
    )
    for name, text in (
        ("--good", "further good parts, no references; they replace those given before"),
        ("--defects", "defective parts; they replace those given before"),
    ):
        parser.add_argument(name, type=Path, nargs="+", default=[], metavar="IMAGE", help=text)
    parser.add_argument("--bundle", type=Path, help="to score --good and --defects")
    add_backend_arguments(parser)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the scores as PNG")
    parser.add_argument("--json", action="store_true", help="JSON to stdout")
    parser.set_defaults(command=_threshold)


def share(text: str) -> float:
    """Read a share inside (0, 1), written as ``0.01``, ``1%`` or ``1 %``.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none.
    """
    number, is_percent = text.strip(), text.strip().endswith("%")
    try:
        value = float(number.rstrip("% ")) / (100.0 if is_percent else 1.0)
    except ValueError:
        value = float("nan")
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(
            f"must be above 0 and below 1, such as 0.01 or 1%, got {text!r:.40}"
        )
    return value


def _threshold(arguments: argparse.Namespace) -> int:
    from cff_runtime.profile_history import load_version, record, store_profile

    by_hand = arguments.reject is not None or arguments.review is not None
    anew = any(
        (
            arguments.good,
            arguments.defects,
            arguments.max_false_reject is not None,
            arguments.max_false_accept is not None,
        )
    )
    _require_sensible(arguments, by_hand, anew)
    profile, version = load_version(arguments.profile)
    before = profile.threshold
    if by_hand or anew:
        threshold = _moved(arguments, before) if by_hand else _chosen(arguments, profile)
        details = {
            "method": threshold.method,
            "value": [before.value, threshold.value],
            "review": [before.review, threshold.review],
        }
        profile = record(_with(profile, threshold, anew), "threshold", details)
    if arguments.picture is not None:
        from cff_runtime.thresholds.picture import save_scores

        save_scores(arguments.picture, profile.threshold)
    if by_hand or anew:  # last: what fails before leaves the profile as it was
        profile = store_profile(arguments.profile, profile, version)
    _tell(arguments, profile.threshold, before if by_hand or anew else None)
    return 0


def _require_sensible(arguments: argparse.Namespace, by_hand: bool, anew: bool) -> None:
    if by_hand and anew:
        raise UsageError(
            "`--reject` and `--review` must come without wishes and images: either a person "
            "chooses or the rule; run two commands"
        )
    if (arguments.good or arguments.defects) and arguments.bundle is None:
        raise UsageError("`--good` and `--defects` must come with `--bundle`, to score the images")
    if arguments.confidence is not None and not (by_hand or anew):
        raise UsageError("`--confidence` must come with something to choose, such as `--reject`")


def _moved(arguments: argparse.Namespace, before: "Threshold") -> "Threshold":
    from cff_runtime.thresholds.bounds import DEFAULT_CONFIDENCE
    from cff_runtime.thresholds.moving import move_threshold

    confidence = arguments.confidence or DEFAULT_CONFIDENCE
    return move_threshold(before, arguments.reject, arguments.review, confidence)


def _chosen(arguments: argparse.Namespace, profile: "Profile") -> "Threshold":
    """Choose anew, from stored scores where no images are given."""
    from cff_runtime.thresholds.bounds import DEFAULT_CONFIDENCE
    from cff_runtime.thresholds.choice import choose_threshold
    from cff_runtime.thresholds.moving import has_encoder_score, hashes_of, margin_of
    from cff_runtime.thresholds.rule import DEFAULT_MARGIN

    before = profile.threshold
    further, defects = before.card_scores("further"), before.card_scores("defective")
    peaks: tuple[float, ...] = before.card_scores("further_peaks")
    hashes = hashes_of(before)
    if arguments.good or arguments.defects:
        inspector = _open(arguments, profile)
        if arguments.good:
            further, peaks, hashes["further"] = _score(inspector, profile, arguments.good, True)
        if arguments.defects:
            defects, _, hashes["defective"] = _score(inspector, profile, arguments.defects, False)
    margin = margin_of(before)
    return choose_threshold(
        before.scores,
        before.peaks,
        before.n_parts,
        DEFAULT_MARGIN if margin is None else margin,
        further=further,
        further_peaks=peaks,
        defects=defects,
        max_false_reject=arguments.max_false_reject,
        max_false_accept=arguments.max_false_accept,
        confidence=arguments.confidence or DEFAULT_CONFIDENCE,
        hashes=hashes,
        has_encoder_score=has_encoder_score(before),
    )


def _open(arguments: argparse.Namespace, profile: "Profile") -> "Inspector":
    from cff_runtime.bundle import Bundle
    from cff_runtime.opening import open_inspector

    bundle = Bundle.open(arguments.bundle)
    return open_inspector(arguments, bundle.view(profile.precision_in(bundle.manifest)))


def _score(
    inspector: "Inspector", profile: "Profile", paths: list[Path], good: bool
) -> tuple[tuple[float, ...], tuple[float, ...], list[str]]:
    """Return scores, map maxima and hashes of the preprocessed pixels of some images."""
    from cff_runtime.imaging import list_images, load_image
    from cff_runtime.references import pixels_sha256

    known = {reference.sha256: "a reference of the profile" for reference in profile.references}
    scores, peaks, hashes = [], [], []
    images = list_images(paths)
    for number, path in enumerate(images, 1):
        image = load_image(path)
        digest = pixels_sha256(inspector.bundle.manifest.preprocessing(image))
        if digest in known:
            raise UsageError(
                f"`{path}` must be a part of its own, it is {known[digest]}; leave it out"
                if good
                else f"`{path}` must be defective, it is {known[digest]}; leave it out"
            )
        known[digest] = f"the same image as `{path}`"
        result = inspector.inspect(image, profile)
        scores.append(result.score)
        peaks.append(float(result.anomaly_map.max()))
        hashes.append(digest)
        if sys.stderr.isatty() or number == len(images):
            end = "\n" if number == len(images) else ""
            sys.stderr.write(f"\rscored {number} of {len(images)} images{end}")
    return tuple(scores), tuple(peaks), hashes


def _with(profile: "Profile", threshold: "Threshold", keep_wishes: bool) -> "Profile":
    """Return the profile with a threshold, which stays in the middle of the colour scale.

    Wishes count again when references change; what a person set by hand cannot.
    """
    import dataclasses

    wishes = threshold.card["wishes"] if keep_wishes else {}
    low = profile.display_range[0]
    high = low + 2.0 * max(threshold.pixel_value - low, 1e-6)
    return dataclasses.replace(
        profile,
        threshold=threshold,
        display_range=(low, high),
        settings={**profile.settings, **wishes},
    )


def _tell(
    arguments: argparse.Namespace, threshold: "Threshold", before: "Threshold | None"
) -> None:
    if arguments.json:
        facts = {"profile": str(arguments.profile), **asdict(threshold)}
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    lines = [f"reject above {threshold.value:.4f}{_was(threshold, before, 'value')}"]
    if threshold.review < threshold.value or (before and before.review < before.value):
        lines.append(f"review above {threshold.review:.4f}{_was(threshold, before, 'review')}")
    lines.append(threshold.statement)
    for name, scores in (
        ("references left out", threshold.reference_scores),
        ("augmentations", threshold.augmentation_scores),
        ("further good parts", threshold.card_scores("further")),
        ("defective parts", threshold.card_scores("defective")),
    ):
        if scores:
            verdicts = [threshold.verdict(score) for score in scores]
            counts = ", ".join(
                f"{verdicts.count(verdict)} {verdict}"
                for verdict in ("pass", "review", "reject")
                if verdict in verdicts
            )
            lines.append(f"{name:20} {min(scores):8.4f} to {max(scores):8.4f}  {counts}")
    for premise in threshold.card.get("assumptions", ()):
        lines.append(f"premise: {premise}")
    sys.stdout.write("\n".join(lines) + "\n")


def _was(threshold: "Threshold", before: "Threshold | None", name: str) -> str:
    if before is None or getattr(before, name) == getattr(threshold, name):
        return ""
    return f" (was {getattr(before, name):.4f})"
