"""`cff-run curve`: its arguments. The work is imported when it is asked for."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cff_runtime.console import (
    add_box_options,
    say,
    show_progress,
    tell,
)
from cff_runtime.errors import CffError, UsageError
from cff_runtime.manifest import DEFAULT_PRECISION, Manifest
from cff_runtime.opening import backend_options
from cff_runtime.thresholds import DEFAULT_MARGIN, MAX_MARGIN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cff_runtime.curve.gallery import Gallery
    from cff_runtime.curve.points import Curve

DEFAULT_SHOTS, DEFAULT_DRAWS, DEFAULT_LIMIT = "1,2,4,8", 30, 32


def add_curve_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the command `curve` to the commands of `cff-run`."""
    curve = commands.add_parser(
        "curve",
        help="say what one more reference would bring, from the parts at hand",
        description="Enrol K of the good parts again and again and judge those left over: false "
        "rejects, and with defective parts the share found and the image AUROC, against K, with "
        "intervals. Every image is encoded once.",
    )
    curve.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    curve.add_argument(
        "--good", type=Path, nargs="+", required=True, metavar="IMAGE", help="images or folders"
    )
    curve.add_argument(
        "--defects", type=Path, nargs="+", metavar="IMAGE", help="images or folders, to any depth"
    )
    curve.add_argument("--precision", default=DEFAULT_PRECISION, help="of the encoder")
    curve.add_argument("--shots", default=DEFAULT_SHOTS, metavar="K,K,...", help=DEFAULT_SHOTS)
    curve.add_argument("--draws", type=int, default=DEFAULT_DRAWS, metavar="N")
    curve.add_argument(
        "--limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"good parts used ({DEFAULT_LIMIT}), drawn at random: time grows with its square",
    )
    curve.add_argument("--text-name", help="class word of the text vectors, if any")
    curve.add_argument("--margin", type=float, default=DEFAULT_MARGIN, help="of the threshold")
    curve.add_argument("--seed", type=int, default=0, help="of the draws")
    curve.add_argument("--picture", type=Path, metavar="FILE.png")
    add_box_options(curve)
    curve.set_defaults(command=_curve)


def _curve(arguments: argparse.Namespace) -> int:
    from cff_runtime.curve.picture import save_picture
    from cff_runtime.curve.points import measure_curve
    from cff_runtime.curve.statement import statement

    shots = parse_shots(arguments.shots)
    for name, least in (("draws", 2), ("limit", 3), ("seed", 0)):
        if getattr(arguments, name) < least:
            got = getattr(arguments, name)
            raise UsageError(f"`--{name}` must be {least} or more, got {got}")
    if not 0 <= arguments.margin <= MAX_MARGIN:  # NaN fails too
        raise UsageError(f"`--margin` must be 0 to {MAX_MARGIN:g}, got {arguments.margin}")
    gallery, n_failed = _build(arguments, shots)
    curve = measure_curve(
        gallery, shots, arguments.draws, arguments.margin, arguments.seed, show_progress("tried")
    )
    sentence = statement(curve)
    if arguments.picture:
        save_picture(arguments.picture, curve, sentence)
    if arguments.json:
        say(json.dumps(_facts(curve, sentence, n_failed)))
    else:
        say(format_curve(curve, sentence))
    return 1 if n_failed else 0


def parse_shots(text: str) -> list[int]:
    """Read numbers of references such as ``1,2,4``.

    Raises
    ------
    UsageError
        If it is anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"`--shots` must be numbers of references such as 1,2,4, got {text!r}")
    return sorted({int(part) for part in parts})


def _build(arguments: argparse.Namespace, shots: Sequence[int]) -> "tuple[Gallery, int]":
    import numpy as np

    from cff_runtime.backends import open_backend
    from cff_runtime.bundle import Bundle
    from cff_runtime.curve.gallery import build_gallery, n_encodings
    from cff_runtime.curve.points import usable_shots
    from cff_runtime.imaging import list_images
    from cff_runtime.inspector import DEFAULT_TEXT_NAME
    from cff_runtime.replay.known import find_parts

    good = list_images(arguments.good)
    defective = find_parts(arguments.defects) if arguments.defects else []
    if len(good) > arguments.limit:
        rng = np.random.default_rng(arguments.seed)
        chosen = sorted(rng.choice(len(good), arguments.limit, replace=False))
        tell(f"note: {arguments.limit} of {len(good)} good parts are used, see `--limit`")
        good = [good[index] for index in chosen]
    bundle = Bundle.open(arguments.bundle, arguments.precision)
    word = arguments.text_name or (DEFAULT_TEXT_NAME if bundle.manifest.condition.names else None)
    condition = None if word is None else bundle.condition_of_word(word)
    backend = open_backend(arguments.backend, bundle, backend_options(arguments))
    failed: list[Path] = []
    parts = list(_load(good, bundle.manifest, failed))
    usable_shots(shots, len(parts))  # before hours of encoding
    progress, n_done = show_progress("encoded"), 0
    total = n_encodings(bundle.manifest, len(parts), len(defective))

    def encoded() -> None:
        nonlocal n_done
        n_done += 1
        progress(n_done, total)

    defects = _load(defective, bundle.manifest, failed)
    gallery = build_gallery(backend, bundle.manifest, parts, defects, condition, encoded)
    return gallery, len(failed)


def _load(
    paths: Sequence[Path], manifest: Manifest, failed: list[Path]
) -> "Iterator[NDArray[np.uint8]]":
    """Yield preprocessed images; one that cannot be read is told, noted and left out."""
    from cff_runtime.imaging import load_image

    for path in paths:
        try:
            yield manifest.preprocessing(load_image(path))
        except CffError as error:
            failed.append(path)
            tell(f"error: {error}")


def format_curve(curve: "Curve", sentence: str) -> str:
    """Return the curve as tables for people, a quantity each, and the sentence below them."""
    from cff_runtime.curve.points import QUANTITIES
    from cff_runtime.curve.statement import interval, points_interval

    lines = []
    for quantity in QUANTITIES:
        if quantity.name not in curve.points[0].estimates:
            continue
        lines.append(
            f"{quantity.label:14} {'K':>3}  held out  {'mean':20}{'90% of draws':16}one more brings"
        )
        for point in curve.points:
            value, gain = point.estimates[quantity.name], point.gains.get(quantity.name)
            draws = f"{100 * value.draws_low:.0f} to {100 * value.draws_high:.0f}%"
            brings = "-" if gain is None else points_interval(gain)
            row = f"{'':14} {point.k:3}  {point.n_held_out:8}  {interval(value):20}"
            lines.append(f"{row}{draws:16}{brings}")
    spread = ", ".join(
        f"{point.score_mean:.3f} +- {point.score_spread:.3f} (K = {point.k})"
        for point in curve.points
    )
    lines.append(f"scores of held-out good parts, mean and deviation: {spread}")
    lines.append(
        f"{curve.n_good} good parts, {curve.n_defective} defective, {curve.n_draws} draws; in "
        "brackets 90% intervals, which take into account\nthat all draws share these parts"
    )
    return "\n".join([*lines, sentence])


def _facts(curve: "Curve", sentence: str, n_failed: int) -> dict[str, Any]:
    return {
        "n_good": curve.n_good,
        "n_defective": curve.n_defective,
        "n_failed": n_failed,
        "n_draws": curve.n_draws,
        "statement": sentence,
        "points": [point.to_dict() for point in curve.points],
    }
