"""`cff-train`: train a detector on a data set's images, or import projectors."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cff_edge.presets import PRESETS
from cff_runtime.errors import CffError, MissingDependencyError

if TYPE_CHECKING:
    from cff_edge.config import Config

log = logging.getLogger("cff_edge")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cff-train``; return the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_edge").setLevel(logging.INFO)
    try:
        if arguments.out is None and arguments.write_meta is None:
            parser.error("the following arguments are required: --out")
        _run(arguments)
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
        description="Train projectors and calibrators on labelled images of some products, or "
        "TFA-Net on the good images of one. The run's folder is what cff-export reads.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="data sets")
    source.add_argument(
        "--import-april-gan",
        type=Path,
        metavar="FILE",
        help="do not train: make a run of the linear layers that APRIL-GAN published",
    )
    source.add_argument(
        "--write-meta",
        type=Path,
        metavar="DIR",
        help="do not train: list a data set in its meta.json, as APRIL-GAN's tools read it",
    )
    parser.add_argument("--products", help="only these products, separated by commas")
    parser.add_argument("--exclude", help="all but these products, separated by commas")
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder to write")
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


def _run(arguments: argparse.Namespace) -> None:
    try:  # here and below, so that --help is quick and a missing package is one sentence
        import cff_edge.training  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"training needs a package that is not installed ({error}); "
            "install cff-edge[train] with pip"
        ) from error
    if arguments.write_meta is not None:
        _write_meta(arguments.write_meta)
        return
    config = _config(arguments)
    if arguments.print_config:
        print(config.to_toml(), end="")
    elif arguments.import_april_gan is not None:
        _import(arguments, config)
    else:
        _train(arguments, config)


def _config(arguments: argparse.Namespace) -> "Config":
    from cff_edge.config import load_config

    overrides, preset = _overrides(arguments), arguments.preset
    if arguments.import_april_gan is not None:
        # no epoch is run here; either preset has the head and backbone of the published layers
        overrides, preset = ["train.projector_epochs=0", *overrides], preset or "april-gan-visa"
    return load_config(arguments.config, overrides, preset)


def _train(arguments: argparse.Namespace, config: "Config") -> None:
    from cff_edge.models import train_run

    train_run(config, arguments.out, arguments.cache, arguments.resume)
    log.info("wrote %s", arguments.out)


def _import(arguments: argparse.Namespace, config: "Config") -> None:
    from cff_edge.april_gan import import_projectors, read_projectors
    from cff_edge.models import configured_backbone

    file = arguments.import_april_gan
    read_projectors(file)  # before a backbone is loaded for nothing
    import_projectors(file, config, configured_backbone(config), arguments.out)
    log.info("wrote %s", arguments.out)


def _write_meta(root: Path) -> None:
    from cff_edge.datasets import read_dataset
    from cff_edge.meta_json import META_NAME, write_meta

    dataset = read_dataset(root, require_masks=False)
    path = dataset.root / META_NAME
    write_meta(dataset, path)
    log.info("wrote %s: %d images", path, len(dataset.samples))


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
