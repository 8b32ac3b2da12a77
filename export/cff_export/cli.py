"""`cff-export`: from a training run to a bundle, and what else a bundle can become."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cff_export.hosts.command import add_host_arguments, write_hosts
from cff_export.signing import sign_bundle
from cff_runtime.bundle import Bundle
from cff_runtime.engines.command import (
    add_engine_options,
    engine_line,
    engine_settings,
    shown_progress,
)
from cff_runtime.errors import CffError, MissingDependencyError, UsageError
from cff_runtime.imaging import list_images
from cff_runtime.manifest import DEFAULT_PRECISION, MANIFEST_NAME
from cff_runtime.trust import BUNDLE_SIGNATURE_NAME, trust_nobody
from cff_runtime.trust.keys import read_private_key

if TYPE_CHECKING:
    from cff_export.variants import Outcome

# dynamic quantisation is for the CPU, TensorRT has no operators for it
_CPU_ONLY = ("int8",)
log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cff-export``; return the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_export").setLevel(logging.INFO)
    try:
        with trust_nobody():  # what is made here is signed last, and checked where it is used
            return _export(arguments)
    except CffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was not finished was not written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cff-export",
        description="Fold a trained run into one encoder graph and its scorers, check them against "
        "PyTorch, and write the bundle that cff-run reads. Given a bundle instead of a run, add "
        "precisions, engines or files for other hosts to it.",
    )
    parser.add_argument(
        "source", type=Path, metavar="RUN|BUNDLE", help="written by cff-train or cff-export"
    )
    parser.add_argument(
        "--out", type=Path, metavar="BUNDLE", help="folder to write; a bundle is changed in place"
    )
    parser.add_argument("--replace", action="store_true", help="replace an existing bundle")
    run = parser.add_argument_group("of a run")
    run.add_argument("--text-names", default="", metavar="A,B", help="class words to carry")
    run.add_argument("--text-weight", type=float, help="weight of the text map")
    run.add_argument("--weights", help="backbone weights, if they moved since training")
    precision = parser.add_argument_group("precisions")
    precision.add_argument(
        "--precision",
        default="",
        metavar="A,B",
        help="of the encoder: fp32 (always there), fp16, int8 (for the CPU), int8-qdq (for "
        "TensorRT)",
    )
    precision.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="good images or folders that int8-qdq is calibrated on; a run's training images if "
        "not given",
    )
    engine = parser.add_argument_group(
        "engines", "built into the bundle; cff-run engine does the same on a box without PyTorch"
    )
    engine.add_argument("--engine", metavar="FLAVOUR", help="tensorrt or tensorrt-rtx")
    add_engine_options(engine)
    add_host_arguments(parser)
    parser.add_argument(
        "--sign",
        type=Path,
        metavar="KEY.pem",
        help="sign the bundle with an Ed25519 key, for boxes that trust it (cff-edge[sign]); "
        "passphrase from CFF_SIGN_PASSPHRASE or a prompt",
    )
    return parser


def _export(arguments: argparse.Namespace) -> int:
    precisions = _precisions(arguments.precision)
    further = [name for name in precisions if name != DEFAULT_PRECISION]
    settings = engine_settings(arguments.engine, arguments) if arguments.engine else None
    key = read_private_key(arguments.sign) if arguments.sign else None  # before hours of work
    if (arguments.source / MANIFEST_NAME).is_file():
        bundle, outcomes = _from_bundle(arguments, further)
    else:
        bundle, outcomes = _from_run(arguments, further)
    for outcome in outcomes:
        print(_outcome_line(outcome))
    if settings is not None:
        wanted = precisions or bundle.manifest.precisions
        for name in bundle.manifest.precisions:
            if name in wanted and name not in _CPU_ONLY:
                _build_engines(bundle.view(name), settings)
    if key is not None:
        bundle = sign_bundle(bundle.path, key)
        print(f"{bundle.path / BUNDLE_SIGNATURE_NAME}  signed by {key.id}")
    for line in write_hosts(arguments, bundle):
        print(line)
    return 1 if any(outcome.refused for outcome in outcomes) else 0


def _precisions(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        return []
    try:
        from cff_export.precision import PRECISIONS
    except ImportError as error:
        raise _missing(error) from error
    for name in names:
        if name not in PRECISIONS:
            raise UsageError(f"`--precision` must be of {', '.join(PRECISIONS)}, got {name!r}")
    return names


def _from_bundle(
    arguments: argparse.Namespace, precisions: list[str]
) -> tuple[Bundle, "list[Outcome]"]:
    for option in ("text_names", "text_weight", "weights"):
        if getattr(arguments, option):
            raise UsageError(
                f"`--{option.replace('_', '-')}` must be given with a run, `{arguments.source}` "
                "is a bundle; export the run again"
            )
    out = arguments.out or arguments.source
    bundle = Bundle.open(arguments.source)
    if not precisions and out == arguments.source:
        return bundle, []
    try:
        from cff_export.folders import check_target
        from cff_export.variants import extend_bundle
    except ImportError as error:
        raise _missing(error) from error
    if out.resolve() != arguments.source.resolve():
        check_target(out, arguments.replace)
    images = list_images(arguments.calibration) if arguments.calibration else []
    return extend_bundle(arguments.source, out, precisions, images)


def _from_run(
    arguments: argparse.Namespace, precisions: list[str]
) -> tuple[Bundle, "list[Outcome]"]:
    if arguments.out is None:
        raise UsageError("`--out` must be given with a run: the bundle's folder")
    try:  # here, so that --help is quick and a missing package is one sentence
        from cff_export.exporter import export_bundle
        from cff_export.subject import ExportSettings, load_trained
        from cff_export.variants import extend_bundle
    except ImportError as error:
        raise _missing(error) from error

    trained = load_trained(arguments.source, arguments.weights)
    calibration: list[Path] = []
    if "int8-qdq" in precisions:
        calibration = (
            list_images(arguments.calibration)
            if arguments.calibration
            else _training_images(trained.config, trained.products)
        )
    names = tuple(name.strip() for name in arguments.text_names.split(",") if name.strip())
    settings = ExportSettings(names, arguments.text_weight, replace=arguments.replace)
    bundle = export_bundle(
        trained.backbone,
        trained.model,
        trained.config,
        arguments.out,
        settings,
        trained.products,
        trained.images,
    )
    for note in bundle.manifest.notes:
        log.warning("note: %s", note)
    parity = bundle.manifest.parity
    print(
        f"{arguments.out}  id {bundle.manifest.id[:12]}  parity: "
        f"features {max(parity['feature_max_diff']):.1e}, "
        f"map {parity['map_max_diff']:.1e}, {parity['verdict_flips']} verdict flips"
    )
    if not precisions:
        return bundle, []
    del trained  # a ViT-L's gigabyte, of which the graphs have their own copy
    return extend_bundle(arguments.out, arguments.out, precisions, calibration)


def _training_images(config: Any, products: Sequence[str]) -> list[Path]:
    """Return the good training images of the products that a run was trained on."""
    from cff_edge.datasets import read_dataset

    paths = []
    for root in config.data.roots:
        if not Path(root).is_dir():
            raise UsageError(
                f"`--calibration` must name good images for int8-qdq: the run's data set `{root}` "
                "is not here"
            )
        dataset = read_dataset(root, require_masks=False)
        samples = dataset.select("train", False) or dataset.select(None, False)
        paths += [sample.path for sample in samples if sample.product in products]
    if not paths:
        raise UsageError(
            "`--calibration` must name good images for int8-qdq, the run has none of its own"
        )
    return paths


def _build_engines(bundle: Bundle, settings: Any) -> None:
    from cff_runtime.engines.bundle_engines import build_bundle_engines

    with shown_progress() as progress:
        engines = build_bundle_engines(bundle, settings, progress)
    for engine in engines:
        print(engine_line(engine))


def _outcome_line(outcome: "Outcome") -> str:
    if outcome.refused:
        return f"{outcome.precision}  REFUSED  {outcome.refused}"
    kept = ", ".join(outcome.kept_fp32)
    return (
        f"{outcome.precision}  {outcome.encoder}  {outcome.summary}"
        f"{f'; kept in fp32: {kept}' if kept else ''}"
    )


def _missing(error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(
        f"exporting needs a package that is not installed ({error}); "
        "install cff-edge[export] with pip"
    )


if __name__ == "__main__":
    sys.exit(main())
