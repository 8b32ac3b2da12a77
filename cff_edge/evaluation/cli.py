"""`cff-eval`: evaluate methods on few-shot cells and print tables."""

import argparse
import dataclasses
import functools
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cff_runtime.errors import CffError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from cff_edge.evaluation.cells import CellResult
    from cff_edge.evaluation.context import Context
    from cff_edge.evaluation.not_run import NotRun
    from cff_edge.evaluation.runner import Executor

log = logging.getLogger("cff_edge")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cff-eval``; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        _evaluate(arguments, ("cff-eval", *argv))
        sys.stdout.flush()  # here, where an error can still be told
    except CffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a path that cannot even be looked at, a closed or full stdout
        print(f"error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; finished cells are kept, the same command goes on from them",
            file=sys.stderr,
        )
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cff-eval",
        description="Evaluate methods on every product with K references, for several draws of "
        "references. Finished cells are kept: the same command goes on where it stopped.",
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        dest="methods",
        metavar="NAME=PATH",
        help="a run of cff-train, a bundle of cff-export, a folder of predictions, or the word "
        "raw (the backbone without a head); may be repeated; without any, only the references "
        "are drawn and written",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--shots", default="1,2,4", help="values of K, separated by commas")
    parser.add_argument("--seeds", type=int, metavar="N", help="draws of references (default 5)")
    parser.add_argument("--products", help="only these products, separated by commas")
    parser.add_argument("--references", type=Path, metavar="FILE", help="references.json to use")
    parser.add_argument(
        "--pool",
        choices=("train", "good"),
        help="draw references from the good training images (default), or from all good images; "
        "those drawn are not tested",
    )
    parser.add_argument(
        "--image-score",
        choices=("deployable", "april_gan_transductive"),
        default="deployable",
        help="of methods with a text tower; the others take the map's maximum",
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="feature cache to share")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help="override one value of the configuration of runs and raw, such as "
        "head.text_weight=0; may be repeated",
    )
    parser.add_argument(
        "--compare", metavar="A,B", help="also print the paired difference of two methods"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="compute cells side by side on a Ray cluster, or on this machine with local",
    )
    parser.add_argument("--workers", type=int, help="with --ray; one per GPU or CPU if not given")
    parser.add_argument("--json", action="store_true", help="JSON to stdout instead of tables")
    return parser


def _evaluate(arguments: argparse.Namespace, command: tuple[str, ...]) -> None:
    try:  # here, so that --help is quick and a missing package is one sentence
        from cff_edge.evaluation.not_run import find_not_run
        from cff_edge.evaluation.references import REFERENCES_NAME
        from cff_edge.evaluation.runner import collect, plan, run_all, run_serially
    except ImportError as error:
        raise MissingDependencyError(
            f"evaluation needs a package that is not installed ({error}); "
            "install cff-edge[train] with pip"
        ) from error

    execute = _executor(arguments) if arguments.ray else run_serially
    if arguments.workers is not None and not arguments.ray:
        raise UsageError("`--workers` must go with `--ray`, such as `--ray local`")
    pair = _pair(arguments)
    context = _context(arguments, command)
    if not context.methods:
        context.references.save(context.out / REFERENCES_NAME)
        log.info("wrote %s", context.out / REFERENCES_NAME)
        return
    not_run = find_not_run(context)
    _warn_not_run(not_run)
    missing = plan(context)
    drawn = context.out / REFERENCES_NAME
    if arguments.references is None or arguments.references.resolve() != drawn.resolve():
        context.references.save(drawn)  # before, so that peers can begin
    # or else it stays whole: it may hold more products than are evaluated now
    if missing:
        _run_with_progress(context, missing, functools.partial(run_all, execute=execute))
    results = collect(context)
    for warning in sorted({f"{r.method}: {w}" for r in results for w in r.provenance["warnings"]}):
        log.warning("warning: %s", warning)
    _report(arguments, context, results, not_run, len(missing), pair)


def _warn_not_run(not_run: "Sequence[NotRun]") -> None:
    """Say every reason once, whatever the number of data sets and K."""
    for method, reason in dict.fromkeys((entry.method, entry.reason) for entry in not_run):
        ks = {entry.k for entry in not_run if (entry.method, entry.reason) == (method, reason)}
        shots = ", ".join(map(str, sorted(ks)))
        log.warning("warning: %s did not run at K = %s: %s", method, shots, reason)


def _executor(arguments: argparse.Namespace) -> "Executor":
    try:
        from cff_edge.evaluation.ray_executor import ray_executor
    except ImportError as error:
        raise MissingDependencyError(
            f"`--ray` needs a package that is not installed ({error}); install cff-edge[ray] "
            "with pip"
        ) from error
    return ray_executor(arguments.ray, arguments.workers)


def _context(arguments: argparse.Namespace, command: tuple[str, ...]) -> "Context":
    """Read data sets, methods and references; refuse what would fail later."""
    from cff_edge.evaluation.context import Context, choose_references, read_datasets
    from cff_edge.evaluation.methods import parse_method

    shots = _shots(arguments.shots)
    if arguments.seeds is not None and arguments.seeds < 1:
        raise UsageError(f"`--seeds` must be 1 or more, got {arguments.seeds}")
    methods = tuple(parse_method(text, arguments.overrides) for text in arguments.methods)
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"methods must have different names, got two called {name!r}")
    datasets = read_datasets(arguments.data, _split(arguments.products))
    references, seeds = choose_references(
        datasets, shots, arguments.seeds, arguments.pool, arguments.references
    )
    return Context(
        methods=methods,
        datasets=datasets,
        references=references,
        shots=shots,
        seeds=seeds,
        image_score=arguments.image_score,
        out=arguments.out,
        cache=arguments.cache or arguments.out / "cache",
        command=command,
    )


def _run_with_progress(context: "Context", missing: Sequence[Any], run_all: Any) -> None:
    from tqdm import tqdm

    with tqdm(total=len(missing), desc="cells", unit="cell", disable=None) as bar:

        def advance(result: "CellResult") -> None:
            bar.set_postfix_str(str(result.cell))
            bar.update()

        run_all(context, missing, advance)


def _report(
    arguments: argparse.Namespace,
    context: "Context",
    results: "Sequence[CellResult]",
    not_run: "Sequence[NotRun]",
    n_computed: int,
    pair: tuple[str, str] | None,
) -> None:
    from cff_edge.evaluation.comparison import compare, format_comparisons
    from cff_edge.evaluation.tables import format_short, write_all

    datasets = write_all(results, context.out, not_run=not_run)
    comparisons = compare(results, *pair, not_run) if pair else []
    if arguments.json:
        fields = {
            "out": str(context.out),
            "n_cells": len(results),
            "n_computed": n_computed,
            "results": [_short(result) for result in results],
            "not_run": [dataclasses.asdict(entry) for entry in not_run],
            "comparisons": [comparison.to_dict() for comparison in comparisons],
        }
        print(json.dumps(fields))
    else:
        print(format_short(datasets))
        if comparisons:
            print(format_comparisons(comparisons) + "\n")
        print(
            "Intervals, products and published figures: "
            f"{shlex.quote(str(context.out / 'tables.txt'))} (.md, .csv, .json); "
            f"with pictures: {shlex.quote(str(context.out / 'index.html'))}"
        )
    log.info("%d cells, %d of them computed now", len(results), n_computed)


def _short(result: "CellResult") -> dict[str, Any]:
    """Return a result without its lists of images, which stand in its file."""
    names = ("method", "dataset", "product", "k", "seed", "image_score", "metrics", "seconds")
    fields = result.to_dict()
    return {name: fields[name] for name in names}


def _shots(text: str) -> tuple[int, ...]:
    words = _split(text)
    if not words or not all(word.isascii() and word.isdecimal() for word in words):
        raise UsageError(
            f"`--shots` must be whole numbers separated by commas, such as 1,2,4, got {text!r}"
        )
    return tuple(sorted({int(word) for word in words}))


def _pair(arguments: argparse.Namespace) -> tuple[str, str] | None:
    """Return the two methods to compare, after checking that both are evaluated."""
    if arguments.compare is None:
        return None
    names = _split(arguments.compare)
    known = [text.partition("=")[0] for text in arguments.methods]
    if len(names) != 2 or names[0] == names[1] or not set(names) <= set(known):
        raise UsageError(
            f"`--compare` must name two of the methods {', '.join(known)}, as A,B, "
            f"got {arguments.compare!r}"
        )
    return names[0], names[1]


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(main())
