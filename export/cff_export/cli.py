"""`cff-export`: from a training run to a bundle."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from cff_runtime.errors import CffError, MissingDependencyError


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cff-export``; return the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_export").setLevel(logging.INFO)
    try:
        _export(arguments)
    except CffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cff-export",
        description="Fold a trained run into one encoder graph and its scorers, check them against "
        "PyTorch, and write the bundle that cff-run reads.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder written by cff-train")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to write")
    parser.add_argument("--text-names", default="", metavar="A,B", help="class words to carry")
    parser.add_argument("--text-weight", type=float, help="weight of the text map")
    parser.add_argument("--weights", help="backbone weights, if they moved since training")
    parser.add_argument("--replace", action="store_true", help="replace an existing bundle")
    return parser


def _export(arguments: argparse.Namespace) -> None:
    try:  # here, so that --help is quick and a missing package is one sentence
        from cff_edge.backbones import load_backbone
        from cff_edge.checkpoint import load_run, restore_head
        from cff_export.exporter import ExportSettings, export_bundle
    except ImportError as error:
        raise MissingDependencyError(
            f"exporting needs a package that is not installed ({error}); "
            "install cff-edge[export] with pip"
        ) from error

    config, tensors, facts = load_run(arguments.run)
    backbone = load_backbone(
        config.backbone.name,
        arguments.weights or config.backbone.weights,
        config.backbone.image_size,
        config.backbone.joint_dim or None,
        config.backbone.taps or None,
        config.train.seed,
    )
    head = restore_head(backbone, config, tensors, facts)
    names = tuple(name.strip() for name in arguments.text_names.split(",") if name.strip())
    settings = ExportSettings(names, arguments.text_weight, replace=arguments.replace)
    products = [str(product) for product in facts.get("products", [])]
    bundle = export_bundle(backbone, head, config, arguments.out, settings, products)
    for note in bundle.manifest.notes:
        logging.getLogger(__name__).warning("note: %s", note)
    parity = bundle.manifest.parity
    worst = max(parity["feature_max_diff"])
    print(
        f"{arguments.out}  id {bundle.manifest.id[:12]}  parity: features {worst:.1e}, "
        f"map {parity['map_max_diff']:.1e}, {parity['verdict_flips']} verdict flips"
    )


if __name__ == "__main__":
    sys.exit(main())
