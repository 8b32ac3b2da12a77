"""`cff-run replay`: its arguments. The work is imported when it is asked for."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cff_runtime.console import (
    add_box_options,
    say,
    show_progress,
    tell,
)
from cff_runtime.errors import UsageError
from cff_runtime.opening import backend_options

if TYPE_CHECKING:
    from cff_runtime.replay.rescoring import Side
    from cff_runtime.replay.tally import Tally

DEFAULT_PICTURES = 60
_EXIT_FAILED, _EXIT_CHANGED = 1, 3


def add_replay_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the command `replay` to the commands of `cff-run`."""
    replay = commands.add_parser(
        "replay",
        help="re-score stored parts after a change and list every verdict that changed",
        description="Score stored parts with an old and a new profile, threshold, precision or "
        "bundle, and list every verdict that changed, with both maps side by side. Exit code 0 if "
        "no verdict changed, 3 if one did, 1 if an image could not be scored.",
    )
    replay.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGES", help="images or folders, to any depth"
    )
    replay.add_argument("--old", type=Path, required=True, metavar="PROFILE")
    replay.add_argument("--new", type=Path, required=True, metavar="PROFILE")
    for side, other in (("old", "new"), ("new", "old")):
        replay.add_argument(
            f"--{side}-bundle",
            type=Path,
            metavar="BUNDLE",
            help=f"of the {side} profile, that of the {other} if not given",
        )
    replay.add_argument("--page", type=Path, required=True, metavar="FILE.html")
    replay.add_argument(
        "--known",
        type=Path,
        metavar="FILE",
        help="CSV lines `image,good` or `image,defect`; without it, images in a folder `good` are "
        "good and those in folders beside it defective",
    )
    replay.add_argument(
        "--pictures",
        type=int,
        default=DEFAULT_PICTURES,
        metavar="N",
        help=f"changed parts with pictures on the page ({DEFAULT_PICTURES}), furthest moved first",
    )
    add_box_options(replay)
    replay.set_defaults(command=_replay)


def _replay(arguments: argparse.Namespace) -> int:
    from cff_runtime.replay.known import KnownParts, find_parts
    from cff_runtime.replay.page import Heading, write_page
    from cff_runtime.replay.pictures import Shelf, draw_triptych
    from cff_runtime.replay.rescoring import Failure, rescore
    from cff_runtime.replay.tally import Tally

    if arguments.pictures < 0:
        raise UsageError(f"`--pictures` must be 0 or more, got {arguments.pictures}")
    known = KnownParts.read(arguments.known) if arguments.known else KnownParts()
    images = find_parts(arguments.images)
    old, new = _open_sides(arguments)
    tally, shelf = Tally(), Shelf(arguments.pictures)
    progress = show_progress("replayed")
    for done, outcome in enumerate(rescore(images, old, new, known), 1):
        if isinstance(outcome, Failure):
            tally.failures.append(outcome)
            tell(f"error: {outcome.error}")
        else:
            part, views = outcome
            tally.add(part)
            if shelf.wants(part):
                shelf.put(part, draw_triptych(views, old.profile, new.profile))
        progress(done, len(images))
    heading = Heading(new.profile.product, _compare(arguments, old, new))
    _print(arguments, tally)  # first: a page that cannot be written takes no verdict away
    write_page(arguments.page, heading, tally, shelf)
    if tally.failures:
        return _EXIT_FAILED
    return _EXIT_CHANGED if tally.changed else 0


def _open_sides(arguments: argparse.Namespace) -> "tuple[Side, Side]":
    from cff_runtime.backends import Backend, open_backend
    from cff_runtime.bundle import Bundle
    from cff_runtime.inspector import Inspector
    from cff_runtime.precisions import refusal
    from cff_runtime.profile import Profile
    from cff_runtime.replay.rescoring import Side

    paths = (
        arguments.old_bundle or arguments.new_bundle,
        arguments.new_bundle or arguments.old_bundle,
    )
    if paths[0] is None or paths[1] is None:
        raise UsageError(
            "`--old-bundle` or `--new-bundle` must be given: a profile does not say where its "
            "bundle lies"
        )
    profiles = [Profile.load(path) for path in (arguments.old, arguments.new)]
    bundles = {path: Bundle.open(path) for path in dict.fromkeys(paths)}
    opened: dict[str, tuple[Inspector, Backend]] = {}  # by id: of one bundle a part is encoded once
    sides = []
    for path, profile in zip(paths, profiles, strict=True):
        bundle = bundles[path].view(profile.precision_in(bundles[path].manifest))
        if bundle.manifest.id not in opened:
            reason = refusal(bundle.manifest.precision, arguments.provider)
            if reason:
                tell(f"note: {bundle.manifest.precision} on {arguments.provider}: {reason}")
            backend = open_backend(arguments.backend, bundle, backend_options(arguments))
            opened[bundle.manifest.id] = Inspector(bundle, backend), backend
        sides.append(Side(*opened[bundle.manifest.id], profile))
    return sides[0], sides[1]


def _compare(arguments: argparse.Namespace, old: "Side", new: "Side") -> dict[str, tuple[str, str]]:
    sides = (old, new)

    def both(values: Any) -> tuple[str, str]:
        first, second = (str(value) for value in values)
        return first, second

    profiles = [side.profile for side in sides]
    rows = both(" + ".join(str(len(bank)) for bank in p.banks) for p in profiles)
    return {
        "profile": both((arguments.old, arguments.new)),
        "product": both(p.product for p in profiles),
        "bundle": both(side.inspector.bundle.path for side in sides),
        "bundle id": both(p.bundle_id[:12] for p in profiles),
        "precision": both(side.inspector.bundle.manifest.precision for side in sides),
        "references": both(p.n_references for p in profiles),
        "bank rows": rows,
        "threshold": both(f"{p.threshold.value:.6g}" for p in profiles),
        "review above": both(f"{p.threshold.review:.6g}" for p in profiles),
        "pixel threshold": both(f"{p.threshold.pixel_value:.6g}" for p in profiles),
        "method": both(p.threshold.method for p in profiles),
    }


def _print(arguments: argparse.Namespace, tally: "Tally") -> None:
    if arguments.json:
        say(json.dumps({"page": str(arguments.page), **tally.to_dict()}))
        return
    for part in tally.by_movement():
        better = {None: "", True: "  better", False: "  worse"}[part.is_better]
        say(
            f"{part.old.verdict:6} to {part.new.verdict:6}  {part.old.relative:7.3f} to "
            f"{part.new.relative:7.3f}{better:8}  {part.image}"
        )
    say(f"{arguments.page}  {tally.sentence()}")
