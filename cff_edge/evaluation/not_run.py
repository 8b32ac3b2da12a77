"""What a peer could not run, in its own words: such cells are neither planned nor an error.

`cff-peers` writes `<folder>/not_run.json` beside a peer's predictions:

    {"schema": 1, "method": "padim", "not_run": [{"shots": [1], "reason": "its covariance ..."}]}
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_edge.evaluation.context import Context
from cff_edge.evaluation.methods import NOT_RUN_NAME, MethodSpec
from cff_edge.evaluation.predictions_method import PREDICTIONS_NAME
from cff_runtime.errors import DatasetError
from cff_runtime.jsonfields import parse_object, take

_SCHEMA_VERSION = 1


@dataclass(frozen=True, order=True)
class NotRun:
    """A method that has no figures for a data set at one K.

    Attributes
    ----------
    dataset : str
    k : int
    method : str
    reason : str
        The peer's, on one line.
    """

    dataset: str
    k: int
    method: str
    reason: str


def find_not_run(context: Context) -> list[NotRun]:
    """Return what peers say they did not run, sorted.

    A reason counts where a data set has no prediction at all at that K. Where it has some, the
    peer did run, and a cell that is missing is an error as any other.

    Raises
    ------
    DatasetError
        If a ``not_run.json`` is damaged.
    """
    reasons = {
        method.name: stated_reasons(Path(method.path))
        for method in context.methods
        if method.kind == "predictions"
    }
    cells = [cell for cell in context.cells() if cell.k in reasons.get(cell.method, {})]
    ran = {
        (cell.dataset, cell.k, cell.method)
        for cell in cells
        if _has_predictions(context.method(cell.method), cell.path)
    }
    found = {(cell.dataset, cell.k, cell.method) for cell in cells} - ran
    return sorted(NotRun(*key, reasons[key[2]][key[1]]) for key in found)


def stated_reasons(folder: Path) -> dict[int, str]:
    """Read a peer's ``not_run.json``.

    Returns
    -------
    dict of int to str
        The reason per K; empty without such a file.

    Raises
    ------
    DatasetError
        If the file is damaged or of another schema.
    """
    path = folder / NOT_RUN_NAME
    if not path.is_file():
        return {}
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except (DatasetError, OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"`{path}` must be as cff-peers writes it: {error}; run the peer again, or delete it"
        ) from error


def _has_predictions(method: MethodSpec, cell: Path) -> bool:
    *_, dataset, product, name = cell.with_suffix("").parts
    return (Path(method.path) / dataset / product / name / PREDICTIONS_NAME).is_file()


def _parse(text: str) -> dict[int, str]:
    fields = parse_object(text, "the file", DatasetError)
    version = take(fields, "schema", int, DatasetError)
    if version != _SCHEMA_VERSION:
        raise DatasetError(f"`schema` must be {_SCHEMA_VERSION}, got {version}")
    reasons: dict[int, str] = {}
    for entry in take(fields, "not_run", list, DatasetError):
        if not isinstance(entry, dict):
            raise DatasetError(f"an entry of `not_run` must be an object, got {entry!r:.80}")
        reason = " ".join(take(entry, "reason", str, DatasetError).split())
        if not reason:
            raise DatasetError("`reason` must say why, it is empty")
        reasons.update(dict.fromkeys(_shots(entry), reason))
    return reasons


def _shots(entry: dict[str, Any]) -> list[int]:
    shots: list[int] = take(entry, "shots", list, DatasetError)
    if not all(type(k) is int and k >= 0 for k in shots):
        raise DatasetError(f"`shots` must be whole numbers, got {shots!r:.80}")
    return shots
