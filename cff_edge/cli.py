"""`cff-train`: train projectors and calibrators on labelled images."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from cff_edge.presets import PRESETS
from cff_runtime.errors import CffError, MissingDependencyError


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cff-train``; return the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_edge").setLevel(logging.INFO)
    try:
        _train(arguments)
    except CffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; continue with --resume", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cff-train",
        description="Train projectors and calibrators on labelled images of some products. "
        "The run's folder is what cff-export reads.",
    )
    parser.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="data sets")
    parser.add_argument("--products", help="only these products, separated by commas")
    parser.add_argument("--exclude", help="all but these products, separated by commas")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder to write")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), help="published recipe, below file and overrides"
    )
    parser.add_argument("--config", type=Path, metavar="TOML", help="configuration file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help="override one value, such as head.calibrator=mlp; may be repeated",
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="feature cache to share")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument("--print-config", action="store_true", help="print the TOML and stop")
    return parser


def _train(arguments: argparse.Namespace) -> None:
    try:  # here, so that --help is quick and a missing package is one sentence
        from cff_edge.backbones import load_backbone
        from cff_edge.config import load_config
        from cff_edge.selection import select_samples
        from cff_edge.training import train
    except ImportError as error:
        raise MissingDependencyError(
            f"training needs a package that is not installed ({error}); "
            "install cff-edge[train] with pip"
        ) from error

    config = load_config(arguments.config, _overrides(arguments), arguments.preset)
    if arguments.print_config:
        print(config.to_toml(), end="")
        return
    samples = select_samples(config)
    backbone = load_backbone(
        config.backbone.name,
        config.backbone.weights,
        config.backbone.image_size,
        config.backbone.joint_dim or None,
        config.backbone.taps or None,
        config.train.seed,
    )
    log = logging.getLogger("cff_edge")
    n_defective = sum(sample.is_defective for sample in samples)
    log.info("%d images, %d of them defective", len(samples), n_defective)
    if backbone.info.weights == "random":
        log.warning("random backbone weights: features mean nothing, for latency and parity only")
    train(config, backbone, samples, arguments.out, arguments.cache, arguments.resume)
    log.info("wrote %s", arguments.out)


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """Express `--data`, `--products` and `--exclude` as configuration overrides."""
    lists = {
        "data.roots": [str(path) for path in arguments.data or ()],
        "data.products": _split(arguments.products),
        "data.exclude": _split(arguments.exclude),
    }
    # TOML's basic strings are JSON's, but for the pairs of escapes that stand for an emoji
    given = [
        f"{key}={json.dumps(values, ensure_ascii=False)}" for key, values in lists.items() if values
    ]
    return [*given, *arguments.overrides]


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(main())
