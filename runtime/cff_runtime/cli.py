"""`cff-run`: enrol products and inspect parts, without PyTorch."""

import argparse
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cff_runtime.batch import run_batch
from cff_runtime.bundle import Bundle
from cff_runtime.console import show_progress, tell
from cff_runtime.curve.command import add_curve_parser
from cff_runtime.doctor.command import add_doctor_parser
from cff_runtime.drift.command import add_drift_parser
from cff_runtime.engines.command import add_engine_parser
from cff_runtime.errors import CffError
from cff_runtime.imaging import list_images, load_image
from cff_runtime.manifest import DEFAULT_PRECISION
from cff_runtime.opening import (
    add_backend_arguments,
    backend_options,
    open_inspector,
    open_named_backend,
)
from cff_runtime.overlay import save_overlay
from cff_runtime.planner.command import add_plan_parser
from cff_runtime.profile import Profile
from cff_runtime.profile_command import add_profile_parsers
from cff_runtime.replay.command import add_replay_parser
from cff_runtime.result import Result
from cff_runtime.storage import atomic_path
from cff_runtime.thresholds.command import add_threshold_parser
from cff_runtime.trust import require_trusted
from cff_runtime.trust.command import add_sign_profile_parser, add_trust_options
from cff_runtime.verification import verify_bundle
from cff_runtime.watch.command import add_watch_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cff-run``; return the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Pillow's remarks on damaged files, two lines of its own source each; its errors still come
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        with require_trusted(getattr(arguments, "trusted_key", None)):
            exit_code = command(arguments)
        sys.stdout.flush()  # here, where an error can still be told
        return exit_code
    except CffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a path that cannot even be looked at, a closed or full stdout
        return _report_os_error(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _report_os_error(error: OSError) -> int:
    print(f"error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # Python would try once more at exit and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cff-run", description="Enrol products from a few good parts and inspect new ones."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_profile_parsers(commands)
    add_threshold_parser(commands)

    inspect = commands.add_parser("inspect", help="score images and give verdicts")
    _add_bundle(inspect)
    inspect.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="images or folders")
    inspect.add_argument("--profile", type=Path, required=True)
    inspect.add_argument("--overlay", type=Path, metavar="DIR", help="write pictures here")
    inspect.add_argument("--maps", type=Path, metavar="DIR", help="write raw maps (.npy) here")
    inspect.set_defaults(command=_inspect)

    batch = commands.add_parser("batch", help="score very many images, resumable (cff-edge[ray])")
    _add_bundle(batch, "CPU threads of each worker, 0 for an equal share")
    batch.add_argument("source", type=Path, metavar="SOURCE", help="folder, list or Parquet file")
    batch.add_argument("--profile", type=Path, required=True)
    batch.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="results, and to resume"
    )
    batch.add_argument("--column", help="of paths in a Parquet file, `image` if not given")
    batch.add_argument("--workers", type=int, help="one per CPU or GPU if not given")
    batch.add_argument("--ray", default="local", metavar="ADDRESS", help="of a cluster, or local")
    batch.set_defaults(command=_batch)

    verify = commands.add_parser("verify", help="check a bundle's golden answers on this box")
    _add_bundle(verify)
    verify.add_argument(
        "--precision", default=DEFAULT_PRECISION, help="of the encoder, one that the bundle holds"
    )
    verify.set_defaults(command=_verify)

    add_replay_parser(commands)
    add_curve_parser(commands)
    add_plan_parser(commands)
    add_engine_parser(commands)
    add_doctor_parser(commands)
    add_watch_parser(commands)
    add_drift_parser(commands)
    add_sign_profile_parser(commands)
    add_trust_options(commands)  # last: to every command that is there
    return parser


def _add_bundle(
    parser: argparse.ArgumentParser, threads: str = "CPU threads, 0 for all cores"
) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    add_backend_arguments(parser, threads)
    parser.add_argument("--json", action="store_true", help="JSON to stdout")


def _inspect(arguments: argparse.Namespace) -> int:
    images = list_images(arguments.images)
    profile = Profile.load(arguments.profile)
    bundle = Bundle.open(arguments.bundle)
    bundle = bundle.view(profile.precision_in(bundle.manifest))
    inspector = open_inspector(arguments, bundle)
    names = _output_names(images)
    n_failed = 0
    for path in images:
        try:
            image = load_image(path)
            result = inspector.inspect(image, profile)
            _print_result(arguments, path, result)  # first: a full disk takes no verdict away
            if result.warning and not arguments.json:
                tell(f"warning: {path}: {result.warning}")
            if arguments.overlay:
                save_overlay(arguments.overlay / f"{names[path]}.png", image, result, profile)
            if arguments.maps:
                _save_map(arguments.maps / f"{names[path]}.npy", result)
        except CffError as error:
            n_failed += 1
            if arguments.json:
                print(json.dumps({"image": str(path), "error": str(error)}), flush=True)
            print(f"error: {error}", file=sys.stderr)
    if n_failed:
        print(f"error: {n_failed} of {len(images)} images failed", file=sys.stderr)
    return 1 if n_failed else 0


def _batch(arguments: argparse.Namespace) -> int:
    summary = run_batch(
        arguments.bundle,
        arguments.source,
        arguments.profile,
        arguments.out,
        column=arguments.column,
        n_workers=arguments.workers,
        address=arguments.ray,
        backend=arguments.backend,
        options=backend_options(arguments),
        progress=show_progress("scored"),
    )
    if arguments.json:
        print(json.dumps(summary.to_dict()))
    else:
        print(
            f"{summary.results}  {summary.n_images} images: {summary.n_pass} pass, "
            f"{summary.n_review} review, "
            f"{summary.n_reject} reject, {summary.n_errors} errors; {summary.n_scored} scored now, "
            f"{summary.images_per_second:.1f} images/s"
        )
    if summary.n_errors:
        print(
            f"error: {summary.n_errors} of {summary.n_images} images failed, see the column "
            "`error`",
            file=sys.stderr,
        )
    return 1 if summary.n_errors else 0


def _verify(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.bundle, arguments.precision)
    report = verify_bundle(bundle, open_named_backend(arguments, bundle))
    if arguments.json:
        print(json.dumps(report.to_dict()))
    else:
        print(
            f"{'passed' if report.passed else 'FAILED'}  {bundle.manifest.precision}, "
            f"{report.n_images} golden images, {report.summary()}"
        )
    report.require_passed()
    return 0


def _print_result(arguments: argparse.Namespace, path: Path, result: Result) -> None:
    if arguments.json:
        print(json.dumps({"image": str(path), **result.to_dict()}), flush=True)
        return
    regions = f"{len(result.regions)} region{'' if len(result.regions) == 1 else 's'}"
    print(
        f"{result.verdict:6}  {result.score:8.4f}  {result.total_ms:7.1f} ms  {regions:10}  {path}",
        flush=True,
    )


def _output_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return one file name per image: its stem, or its path where stems are not unique."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return dict(zip(paths, stems, strict=True))
    names: dict[Path, str] = {}
    for path in dict.fromkeys(paths):
        name = "_".join(path.parts).replace("/", "").replace(".", "_")
        while name in names.values():  # a/b.png and a_b.png
            name += "_"
        names[path] = name
    return names


def _save_map(path: Path, result: Result) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, result.anomaly_map)


if __name__ == "__main__":
    sys.exit(main())
