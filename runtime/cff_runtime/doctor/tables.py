"""The matrix as Markdown tables, for `docs/doctor.md`.

``python -m cff_runtime.doctor.tables docs/doctor.md`` writes them between their markers.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cff_runtime.doctor.matrix import KnownBad, Matrix, TensorRt, load_matrix

# table -> heading of a column -> field of its rows
_COLUMNS = {
    "jetpack": {
        "JetPack": "jetpack",
        "Jetson Linux": "l4t",
        "Ubuntu": "ubuntu",
        "Python": "python",
        "CUDA": "cuda",
        "cuDNN": "cudnn",
        "TensorRT": "tensorrt",
        "boards": "boards",
        "note": "note",
    },
    "onnxruntime": {
        "from": "first",
        "to": "last",
        "CUDA": "cuda",
        "cuDNN": "cudnn",
        "TensorRT": "tensorrt",
        "Python from": "python_from",
        "packages for": "packages",
        "note": "note",
    },
    "cuda_driver": {"CUDA": "cuda", "oldest Linux driver": "driver", "note": "note"},
    "conflicts": {"packages": "packages", "effect": "effect"},
    "indexes": {
        "JetPack": "jetpack_major",
        "CUDA": "cuda",
        "Python": "python",
        "index": "url",
        "note": "note",
    },
}


def matrix_tables(matrix: Matrix) -> dict[str, str]:
    """Return the Markdown of every table by the name of its marker."""
    tables = {
        name: _table(
            [*columns, "read at"],
            [
                [*(_cell(getattr(row, field)) for field in columns.values()), _links(row.sources)]
                for row in getattr(matrix, name)
            ],
        )
        for name, columns in _COLUMNS.items()
    }
    head = ["flavour", "from", "to", "JetPack from", "CUDA", "driver", "compute capability"]
    rows = [_tensorrt_cells(row) for row in matrix.tensorrt]
    tables["tensorrt"] = _table([*head, "note", "read at"], rows)
    head = ["flavour", "from", "to", "precision", "encoders", "ours", "effect", "advice"]
    tables["known_bad"] = _table([*head, "read at"], [_bad_cells(row) for row in matrix.known_bad])
    return tables


def fill_tables(document: str, tables: Mapping[str, str]) -> str:
    """Return a document with the text between its markers replaced.

    Raises
    ------
    ValueError
        If a table's markers are not there once.
    """
    for name, text in tables.items():
        start, end = f"<!-- table:{name} -->\n", f"<!-- /table:{name} -->"
        if document.count(start) != 1 or document.count(end) != 1:
            raise ValueError(f"the document must have the markers of table {name!r} once")
        before, _, rest = document.partition(start)
        document = f"{before}{start}{text}\n{end}{rest.partition(end)[2]}"
    return document


def _tensorrt_cells(row: TensorRt) -> list[str]:
    oldest = row.compute_capability_from
    capability = _cell(row.compute_capabilities) if not oldest else f"{oldest} or newer"
    fields = (row.flavour, row.first, row.last, row.jetpack_from, row.cuda, row.driver)
    return [*map(_cell, fields), capability, _cell(row.note), _links(row.sources)]


def _bad_cells(row: KnownBad) -> list[str]:
    encoders = "transformers" if row.transformers_only else "any"
    if row.compute_capabilities:
        encoders += f", compute capability {_cell(row.compute_capabilities)}"
    fields = (row.flavour, row.first, row.last, row.precisions)
    ours = "yes" if row.ours else "no"
    return [*map(_cell, fields), encoders, ours, row.effect, row.advice, _links(row.sources)]


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return text or "-"


def _links(sources: Sequence[str]) -> str:
    return " ".join(f"[{number}]({url})" for number, url in enumerate(sources, 1))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    filled = fill_tables(path.read_text(encoding="utf-8"), matrix_tables(load_matrix()))
    path.write_text(filled, encoding="utf-8")
