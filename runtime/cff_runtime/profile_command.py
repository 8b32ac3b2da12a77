"""The commands that make, change and describe profiles.

``enroll``, ``add-normals`` and ``remove`` need the bundle; ``undo``, ``diff`` and ``show`` do not.
None of them writes a profile but whole, and every one of them keeps the file that it replaces, see
`cff_runtime.profile_history`.
"""

import argparse
import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cff_runtime.console import add_box_options, say, show_progress, tell
from cff_runtime.errors import ImageError, UsageError
from cff_runtime.manifest import DEFAULT_PRECISION
from cff_runtime.thresholds import DEFAULT_MARGIN
from cff_runtime.thresholds.command import share
from cff_runtime.thresholds.moving import BY_HAND

if TYPE_CHECKING:
    from cff_runtime.image_checks import ImageWarning
    from cff_runtime.manifest import Manifest
    from cff_runtime.profile import Profile

Commands = Any  # argparse gives its subparsers no public name


def add_profile_parsers(commands: Commands) -> None:
    """Add the commands of profiles to the subparsers of ``cff-run``."""
    _add_enroll(commands)
    _add_changes(commands)
    undo = commands.add_parser("undo", help="put back the profile as it was before its last change")
    undo.add_argument("profile", type=Path, metavar="PROFILE")
    undo.add_argument("--json", action="store_true", help="JSON to stdout")
    undo.set_defaults(command=_undo)

    diff = commands.add_parser("diff", help="say what differs between two profiles")
    diff.add_argument("old", type=Path, metavar="PROFILE")
    diff.add_argument(
        "new", type=Path, nargs="?", metavar="OTHER", help="alone: PROFILE against what it was"
    )
    diff.add_argument("--json", action="store_true", help="JSON to stdout")
    diff.set_defaults(command=_diff)

    show = commands.add_parser("show", help="describe a profile or a bundle")
    show.add_argument("path", type=Path, metavar="PROFILE|BUNDLE")
    show.add_argument("--picture", type=Path, metavar="FILE", help="write the references as PNG")
    show.add_argument("--json", action="store_true", help="JSON to stdout, in one line")
    show.set_defaults(command=_show)


def _add_enroll(commands: Commands) -> None:
    enroll = commands.add_parser("enroll", help="make a profile from good parts")
    enroll.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    enroll.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="images or folders")
    enroll.add_argument("--product", required=True, help="name of the product")
    enroll.add_argument("--out", type=Path, required=True, metavar="PROFILE")
    enroll.add_argument("--limit", type=int, help="use the first so many images (K)")
    enroll.add_argument("--text-name", help="class word of the text vectors, if any")
    enroll.add_argument(
        "--precision", default=DEFAULT_PRECISION, help="of the encoder, one that the bundle holds"
    )
    enroll.add_argument(
        "--max-bank", type=int, metavar="ROWS", help="of a stage; a larger one is compressed"
    )
    enroll.add_argument("--margin", type=float, default=DEFAULT_MARGIN, help="of the threshold")
    enroll.add_argument("--max-false-reject", type=share, metavar="SHARE", help="of good parts")
    enroll.add_argument(
        "--max-false-accept", type=share, metavar="SHARE", help="of defective parts"
    )
    enroll.add_argument("--confidence", type=float, help="with which these hold")
    _add_evidence(enroll)
    _add_checks(enroll)
    add_box_options(enroll)
    enroll.set_defaults(command=_enroll)


def _add_changes(commands: Commands) -> None:
    add = commands.add_parser(
        "add-normals",
        help="append good parts to a profile, such as ones that it wrongly rejected",
        description="Append good parts to a profile and set its threshold again, from the images "
        "that it holds and the new ones. The file before is kept, see `undo`.",
    )
    add.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    add.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="images or folders")
    add.add_argument("--profile", type=Path, required=True)
    _add_evidence(add)
    _add_checks(add)
    add_box_options(add)
    add.set_defaults(command=_add_normals)

    remove = commands.add_parser("remove", help="take a reference out of a profile")
    remove.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    remove.add_argument("reference", help="its name or number, see `show`")
    remove.add_argument("--profile", type=Path, required=True)
    _add_evidence(remove)
    add_box_options(remove)
    remove.set_defaults(command=_remove)


def _add_evidence(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--further",
        type=Path,
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="further good parts, which set the threshold and are not remembered",
    )
    parser.add_argument(
        "--defects", type=Path, nargs="+", default=[], metavar="IMAGE", help="defective parts"
    )


def _add_checks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checks", type=Path, metavar="FILE", help="write images and warnings as PNG"
    )
    parser.add_argument("--strict", action="store_true", help="fail where an image is remarkable")


def _enroll(arguments: argparse.Namespace) -> int:
    from cff_runtime.bundle import Bundle
    from cff_runtime.imaging import list_images
    from cff_runtime.opening import open_inspector
    from cff_runtime.profile_history import store_profile

    if arguments.limit is not None and arguments.limit < 1:
        raise UsageError(f"`--limit` must be 1 or more, got {arguments.limit}")
    if arguments.max_bank is not None and arguments.max_bank < 1:
        raise UsageError(f"`--max-bank` must be 1 or more, got {arguments.max_bank}")
    images = list_images(arguments.images)[: arguments.limit]
    bundle = Bundle.open(arguments.bundle, arguments.precision)
    names = ("max_false_reject", "max_false_accept", "confidence")
    given = {name: getattr(arguments, name) for name in names}
    profile = open_inspector(arguments, bundle).enroll(
        images,
        arguments.product,
        arguments.text_name,
        arguments.margin,
        show_progress("encoded"),
        further=list_images(arguments.further),
        defects=list_images(arguments.defects),
        wishes={name: value for name, value in given.items() if value is not None},
        max_bank=arguments.max_bank,
    )
    warnings = _check(arguments, profile, range(profile.n_references), bundle.manifest)
    _report(arguments, arguments.out, store_profile(arguments.out, profile), warnings)
    return 0


def _add_normals(arguments: argparse.Namespace) -> int:
    from cff_runtime.imaging import list_images
    from cff_runtime.profile_history import load_version, store_profile

    images = list_images(arguments.images)
    profile, before = load_version(arguments.profile)
    inspector = _opened_for(arguments, profile)
    extended = inspector.add_normals(
        profile, images, show_progress("encoded"), **_evidence(arguments, profile)
    )
    added = range(profile.n_references, extended.n_references)
    warnings = _check(arguments, extended, added, inspector.bundle.manifest)
    stored = store_profile(arguments.profile, extended, before)
    _report(arguments, arguments.profile, stored, warnings, profile)
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from cff_runtime.profile_history import load_version, store_profile

    profile, before = load_version(arguments.profile)
    smaller = _opened_for(arguments, profile).remove_reference(
        profile, arguments.reference, show_progress("encoded"), **_evidence(arguments, profile)
    )
    stored = store_profile(arguments.profile, smaller, before)
    _report(arguments, arguments.profile, stored, [], profile)
    return 0


def _undo(arguments: argparse.Namespace) -> int:
    from cff_runtime.profile import Profile
    from cff_runtime.profile_history import undo
    from cff_runtime.storage import sha256_file

    version = undo(arguments.profile)
    restored = Profile.load(arguments.profile)
    facts = {
        "profile": str(arguments.profile),
        "version": version.name,
        "sha256": sha256_file(arguments.profile),
        "n_references": restored.n_references,
        "threshold": restored.threshold.value,
    }
    say(
        json.dumps(facts)
        if arguments.json
        else f"{arguments.profile}  {_summary(restored)}, put back from {version.name}"
    )
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from cff_runtime.profile import Profile
    from cff_runtime.profile_history import previous_version
    from cff_runtime.profile_report import compare_profiles, comparison_text

    old, new = arguments.old, arguments.new
    if new is None:
        old, new = previous_version(old), old
    comparison = compare_profiles(Profile.load(old), Profile.load(new))
    files = {"old": str(old), "new": str(new)}
    if arguments.json:
        say(json.dumps({"files": files, **comparison}))
    else:
        say(f"{files['old']} -> {files['new']}\n{comparison_text(comparison)}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from cff_runtime.bundle import Bundle
    from cff_runtime.profile import Profile
    from cff_runtime.profile_history import versions
    from cff_runtime.profile_report import describe_profile

    if arguments.path.is_dir():
        if arguments.picture:
            raise UsageError("`--picture` must come with a profile, got a bundle")
        facts = json.loads(Bundle.open(arguments.path).manifest.to_json())
        del facts["files"]
    else:
        profile = Profile.load(arguments.path)
        kept = [version.name for version in versions(arguments.path)]
        facts = {**describe_profile(profile), "versions": kept}
        if arguments.picture:
            _draw(arguments.picture, profile, range(profile.n_references), [])
    say(json.dumps(facts, indent=None if arguments.json else 2))
    return 0


def _opened_for(arguments: argparse.Namespace, profile: "Profile") -> Any:
    """Return an inspector of the precision that the profile was enrolled with."""
    from cff_runtime.bundle import Bundle
    from cff_runtime.opening import open_inspector

    bundle = Bundle.open(arguments.bundle)
    return open_inspector(arguments, bundle.view(profile.precision_in(bundle.manifest)))


def _evidence(arguments: argparse.Namespace, profile: "Profile") -> dict[str, list[Path]]:
    """Return further parts and defects, and say so where the threshold had some before."""
    from cff_runtime.imaging import list_images

    if profile.threshold.method == BY_HAND:
        tell("warning: a threshold set by hand is replaced; set it again with `cff-run threshold`")
    for option, kind in (("further", "further"), ("defects", "defective")):
        n_before = len(profile.threshold.card_scores(kind))
        if n_before and not getattr(arguments, option):
            tell(
                f"warning: the threshold rested on {n_before} {kind} parts too, which the profile "
                f"does not hold; give them again with --{option}, or it rests on the others alone"
            )
    return {
        "further": list_images(arguments.further),
        "defects": list_images(arguments.defects),
    }


def _check(
    arguments: argparse.Namespace,
    profile: "Profile",
    new: Collection[int],
    manifest: "Manifest",
) -> list["ImageWarning"]:
    """Check the given images, tell and draw what was found; fail if that was asked for."""
    from cff_runtime.image_checks import check_references

    warnings = check_references(profile, new, manifest.trained_images)
    if arguments.checks:
        _draw(arguments.checks, profile, new, warnings)
    for warning in warnings:
        tell(f"warning: {warning}")
    if warnings and arguments.strict:
        raise ImageError(
            f"images must pass all checks with `--strict`, got {len(warnings)} "
            f"warning{'' if len(warnings) == 1 else 's'}; nothing was written"
        )
    return warnings


def _draw(
    path: Path, profile: "Profile", shown: Collection[int], warnings: list["ImageWarning"]
) -> None:
    from cff_runtime.contact_sheet import draw_sheet, save_sheet
    from cff_runtime.image_checks import captions

    remarks = list(captions(profile, warnings))
    titles = [f"{n}  {one.name}" for n, one in enumerate(profile.references, start=1)]
    sheet = draw_sheet(
        [profile.reference_images[index] for index in shown],
        [titles[index] for index in shown],
        [remarks[index] for index in shown],
    )
    save_sheet(path, sheet)


def _report(
    arguments: argparse.Namespace,
    path: Path,
    profile: "Profile",
    warnings: list["ImageWarning"],
    before: "Profile | None" = None,
) -> None:
    from cff_runtime.profile_report import describe_profile

    if arguments.json:
        facts = {"profile": str(path), **describe_profile(profile)}
        say(json.dumps({**facts, "warnings": [warning.to_dict() for warning in warnings]}))
        return
    was = "" if before is None else f" (was {_summary(before)})"
    say(f"{path}  {_summary(profile)}{was}\n{profile.threshold.statement}")


def _summary(profile: "Profile") -> str:
    names = {one.name for one in profile.references}
    template = f", template {profile.condition_name}" if profile.condition_name in names else ""
    facts = f"K = {profile.n_references}{template}, threshold {profile.threshold.value:.4f}"
    return f"{profile.product}, {facts}"
