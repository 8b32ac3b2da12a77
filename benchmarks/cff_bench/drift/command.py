"""The command `cff-bench drift`: its arguments, and the measurement."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cff_runtime.errors import UsageError

_DRAWS, _PICTURES, _QUIET, _RUNS = 20, 40, 2000, 2000
_FIRST_SEED = 4  # 0 to 3 are the references that dead zone, limit and cut were chosen on
_CACHE = Path("build/drift")
log = logging.getLogger(__name__)


def add_drift_parser(subparsers: Any) -> None:
    """Add ``drift`` to the subparsers of ``cff-bench``."""
    parser = subparsers.add_parser(
        "drift", help="how soon are planted drifts seen, how quiet is it? docs/drift.md"
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--data", type=Path, metavar="DIR", help="default: CFF_DATA")
    parser.add_argument(
        "--draws", type=int, default=_DRAWS, metavar="N", help="per product (default: %(default)s)"
    )
    parser.add_argument(
        "--reference-draws", type=int, default=2, metavar="N", help="among them (default: 2)"
    )
    parser.add_argument(
        "--first-seed",
        type=int,
        default=_FIRST_SEED,
        metavar="N",
        help="of the choice of references (default: %(default)s)",
    )
    parser.add_argument(
        "--product", action="append", metavar="SET/CATEGORY", help="one of several, default: all"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=_CACHE,
        metavar="DIR",
        help="inspections are kept there (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="F", help="also write the report as JSON")
    parser.add_argument("--page", type=Path, metavar="F", help="renew the tables of docs/drift.md")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from cff_bench.drift.report import fill_page, format_report
    from cff_runtime.storage import atomic_write

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_bench").setLevel(logging.INFO)
    report = measure(
        args.bundle,
        args.data,
        n_draws=args.draws,
        seeds=range(args.first_seed, args.first_seed + args.reference_draws),
        products=args.product,
        cache=args.cache,
        command=tuple(args.command_line),
    )
    sys.stdout.write(format_report(report) + "\n")
    if args.json is not None:
        atomic_write(args.json, (json.dumps(report, indent=1) + "\n").encode())
    if args.page is not None:
        fill_page(args.page, report)
    return 0


def measure(
    bundle: Path,
    data: Path | None,
    *,
    n_draws: int = _DRAWS,
    seeds: Sequence[int] = (_FIRST_SEED, _FIRST_SEED + 1),
    products: Sequence[str] | None = None,
    cache: Path = _CACHE,
    n_quiet: int = _QUIET,
    n_pictures: int = _PICTURES,
    n_runs: int = _RUNS,
    command: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Inspect what is not in the cache, and try the monitor and its rivals.

    Returns
    -------
    dict
        ``products``, ``references_alone``, ``rivals`` and ``simulation``, ready for JSON.

    Raises
    ------
    UsageError
        If a number of draws is not positive, a product unknown or the data cannot be found.
    CffError
        Whatever opening, reading and inspecting raise.
    """
    from cff_bench.drift import inspections, rivals, simulation, trials
    from cff_bench.environment import collect_environment
    from cff_bench.real_data import data_folder
    from cff_runtime.drift.baseline import N_LEARN
    from cff_runtime.inspector import Inspector

    if n_draws < len(seeds) or not seeds:
        raise UsageError(
            f"`--draws` must be at least `--reference-draws` and that 1 or more, got {n_draws} and "
            f"{len(seeds)}"
        )
    chosen = list(products or inspections.PRODUCTS)
    for product in chosen:
        if product not in inspections.PRODUCTS:
            known = ", ".join(inspections.PRODUCTS)
            raise UsageError(f"`--product` must be one of {known}, got `{product}`")
    folder = data or data_folder({one.partition("/")[0] for one in inspections.PRODUCTS})
    inspector = Inspector.open(bundle)
    found = [
        [
            inspections.inspect_product(inspector, folder, product, seed, n_pictures, cache)
            for seed in seeds
        ]
        for product in chosen
    ]
    rows, alone = [], []
    for draws in found:
        log.info("trying %s", draws[0].product)
        rows.append(trials.try_product(draws, n_draws, N_LEARN, n_quiet))
        alone.append(trials.references_alone(draws, n_draws, N_LEARN, n_quiet))
    log.info("trying other rules")
    return {
        "products": rows,
        "references_alone": {
            "draws": sum(row["draws"] for row in alone),
            "alarmed": sum(row["alarmed"] for row in alone),
        },
        "rivals": rivals.try_rivals(found, n_draws, N_LEARN, n_quiet),
        "simulation": simulation.simulate(n_runs, N_LEARN, n_quiet),
        "settings": {
            "draws": n_draws,
            "seeds": list(seeds),
            "pictures": n_pictures,
            "quiet": n_quiet,
            "learn": N_LEARN,
        },
        "bundle_id": inspector.bundle.manifest.id,
        "environment": asdict(collect_environment()),
        "command": list(command),
    }
