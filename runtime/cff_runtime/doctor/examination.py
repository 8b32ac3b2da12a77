"""One examination: look at the box and the bundle, judge, and write the report."""

import json
import sys
from pathlib import Path

from cff_runtime.doctor.advice import PROBLEM, Finding, advise, can_run
from cff_runtime.doctor.box import Box
from cff_runtime.doctor.engine_files import read_engine_files
from cff_runtime.doctor.matrix import load_matrix
from cff_runtime.doctor.needs import BundleNeeds, read_needs
from cff_runtime.doctor.probe import collect_facts
from cff_runtime.doctor.report import write_report
from cff_runtime.doctor.routes import find_routes
from cff_runtime.errors import CffError


def examine(
    bundle: Path | None, engine_folder: Path | None, as_json: bool, box: Box | None = None
) -> int:
    """Examine a box, this one by default, and print the report.

    Parameters
    ----------
    bundle, engine_folder : path or None
        Without a bundle the report is of the box alone.
    as_json : bool
    box : Box, optional

    Returns
    -------
    int
        Exit code: 0 if the bundle can be run here, or without one if there is no problem; else 1.
    """
    facts = collect_facts(box or Box(), bundle or Path())
    needs, refused = _read_needs(bundle)
    matrix = load_matrix()
    routes = find_routes(facts, needs, matrix)
    engines = []
    if bundle is not None and needs is not None and engine_folder is not None:
        engines = read_engine_files(bundle, engine_folder, facts)
    findings = [*refused, *advise(facts, needs, matrix, routes, engines)]
    if bundle is not None:
        passed = needs is not None and can_run(routes)
    else:
        passed = not any(finding.level == PROBLEM for finding in findings)
    if as_json:
        report = {
            "passed": passed,
            "box": facts.to_dict(),
            "bundle": None if needs is None else needs.to_dict(),
            "engines": [engine.to_dict() for engine in engines],
            "routes": [route.to_dict() for route in routes],
            "findings": [finding.to_dict() for finding in findings],
        }
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        sys.stdout.write(write_report(facts, needs, routes, findings, engines))
    return 0 if passed else 1


def _read_needs(bundle: Path | None) -> tuple[BundleNeeds | None, list[Finding]]:
    """Return what the bundle needs; a bundle that is refused is a finding, not the end."""
    if bundle is None:
        return None, []
    try:
        return read_needs(bundle), []
    except (CffError, OSError) as error:
        return None, [Finding(PROBLEM, "the bundle is refused", str(error))]
