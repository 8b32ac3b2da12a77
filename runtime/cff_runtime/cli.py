"""`cff-run`: enrol products and inspect parts, without PyTorch."""

import argparse
import functools
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cff_runtime.backends import Backend, open_backend
from cff_runtime.batch import run_batch
from cff_runtime.bundle import Bundle
from cff_runtime.doctor.command import add_doctor_parser
from cff_runtime.engines.command import add_engine_parser
from cff_runtime.errors import CffError, UsageError
from cff_runtime.imaging import list_images, load_image
from cff_runtime.inspector import Inspector
from cff_runtime.manifest import DEFAULT_PRECISION
from cff_runtime.overlay import save_overlay
from cff_runtime.profile import Profile
from cff_runtime.result import Result
from cff_runtime.storage import atomic_path
from cff_runtime.thresholds import DEFAULT_MARGIN
from cff_runtime.verification import verify_bundle

# hold fp16 tensors, which ONNX Runtime widens on the CPU and never rounds
_GPU_PRECISIONS = ("fp16", "int8-qdq")
log = logging.getLogger(__name__)


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

    enroll = commands.add_parser("enroll", help="make a profile from good parts")
    _add_bundle(enroll)
    _add_precision(enroll)
    enroll.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="images or folders")
    enroll.add_argument("--product", required=True, help="name of the product")
    enroll.add_argument("--out", type=Path, required=True, metavar="PROFILE")
    enroll.add_argument("--limit", type=int, help="use the first so many images (K)")
    enroll.add_argument("--text-name", help="class word of the text vectors")
    enroll.add_argument("--margin", type=float, default=DEFAULT_MARGIN, help="of the threshold")
    enroll.set_defaults(command=_enroll)

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

    show = commands.add_parser("show", help="describe a profile or a bundle")
    show.add_argument("path", type=Path, metavar="PROFILE|BUNDLE")
    show.add_argument("--json", action="store_true", help="JSON to stdout")
    show.set_defaults(command=_show)

    verify = commands.add_parser("verify", help="check a bundle's golden answers on this box")
    _add_bundle(verify)
    _add_precision(verify)
    verify.set_defaults(command=_verify)

    add_engine_parser(commands)
    add_doctor_parser(commands)
    return parser


def _add_bundle(
    parser: argparse.ArgumentParser, threads: str = "CPU threads, 0 for all cores"
) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--provider", default="cpu", help="execution provider of onnxruntime")
    parser.add_argument("--threads", type=int, default=0, help=threads)
    parser.add_argument("--json", action="store_true", help="JSON to stdout")


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", default=DEFAULT_PRECISION, help="of the encoder, one that the bundle holds"
    )


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"provider": arguments.provider, "threads": arguments.threads}


def _open_backend(arguments: argparse.Namespace, bundle: Bundle) -> Backend:
    precision = bundle.manifest.precision
    if arguments.provider == "cpu" and precision in _GPU_PRECISIONS:
        log.warning(
            "note: on the CPU, ONNX Runtime computes %s in fp32: not the answers of a GPU",
            precision,
        )
    return open_backend(arguments.backend, bundle, _options(arguments))


def _enroll(arguments: argparse.Namespace) -> int:
    if arguments.limit is not None and arguments.limit < 1:
        raise UsageError(f"`--limit` must be 1 or more, got {arguments.limit}")
    images = list_images(arguments.images)[: arguments.limit]
    bundle = Bundle.open(arguments.bundle, arguments.precision)
    inspector = Inspector(bundle, _open_backend(arguments, bundle))
    profile = inspector.enroll(
        images, arguments.product, arguments.text_name, arguments.margin, _show_progress
    )
    profile.save(arguments.out)
    if arguments.json:
        print(json.dumps({"profile": str(arguments.out), **_describe_profile(profile)}))
    else:
        print(
            f"{arguments.out}  {profile.product}, K = {profile.n_references}, "
            f"threshold {profile.threshold.value:.4f}\n{profile.threshold.statement}"
        )
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    images = list_images(arguments.images)
    profile = Profile.load(arguments.profile)
    bundle = Bundle.open(arguments.bundle)
    bundle = bundle.view(profile.precision_in(bundle.manifest))
    inspector = Inspector(bundle, _open_backend(arguments, bundle))
    names = _output_names(images)
    n_failed = 0
    for path in images:
        try:
            image = load_image(path)
            result = inspector.inspect(image, profile)
            _print_result(arguments, path, result)  # first: a full disk takes no verdict away
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
        provider=arguments.provider,
        threads=arguments.threads,
        progress=functools.partial(_show_progress, verb="scored"),
    )
    if arguments.json:
        print(json.dumps(summary.to_dict()))
    else:
        print(
            f"{summary.results}  {summary.n_images} images: {summary.n_pass} pass, "
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


def _show(arguments: argparse.Namespace) -> int:
    if arguments.path.is_dir():
        manifest = Bundle.open(arguments.path).manifest
        facts = json.loads(manifest.to_json())
        del facts["files"]
    else:
        facts = _describe_profile(Profile.load(arguments.path))
    print(json.dumps(facts, indent=None if arguments.json else 2))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.bundle, arguments.precision)
    report = verify_bundle(bundle, _open_backend(arguments, bundle))
    if arguments.json:
        print(json.dumps(report.to_dict()))
    else:
        print(
            f"{'passed' if report.passed else 'FAILED'}  {bundle.manifest.precision}, "
            f"{report.n_images} golden images, {report.summary()}"
        )
    report.require_passed()
    return 0


def _describe_profile(profile: Profile) -> dict[str, Any]:
    return {
        "product": profile.product,
        "bundle_id": profile.bundle_id,
        "n_references": profile.n_references,
        "bank_rows": [len(bank) for bank in profile.banks],
        "bank_mb": round(sum(bank.nbytes for bank in profile.banks) / 1e6, 2),
        "text_name": profile.text_name,
        "threshold": asdict(profile.threshold),
        "display_range": profile.display_range,
        "peak_scale": profile.peak_scale,
        "history": profile.history,
    }


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


def _show_progress(done: int, total: int, verb: str = "encoded") -> None:
    if sys.stderr.isatty() or done == total:
        print(f"\r{verb} {done} of {total} images", end="", file=sys.stderr, flush=True)
    if done == total:
        print(file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
