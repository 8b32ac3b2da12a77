"""What building a bundle's engines took, from the side-cars beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cff_runtime.backends import DEFAULT_BACKEND
from cff_runtime.engines import ENGINES_FOLDER, EngineStore


def engine_builds(
    bundle: Path, backend: str, options: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], str]:
    """Return a row per engine of a bundle, and why there is none.

    Parameters
    ----------
    bundle : Path
    backend, options
        As in `Inspector.open`; option ``engines`` may name another folder.

    Returns
    -------
    rows : list of dict
        ``graph``, ``flavour``, ``precision``, ``gpu``, ``build_s``, ``mb``.
    reason : str
    """
    folder = Path(str(options.get("engines") or bundle / ENGINES_FOLDER))
    rows = [
        {
            "graph": engine.graph_name,
            "flavour": engine.key.flavour,
            "precision": engine.key.precision,
            "gpu": engine.key.gpu or ", ".join(engine.key.compute_capabilities),
            "build_s": engine.build_seconds,
            "mb": engine.n_bytes / 1e6,
        }
        for engine in sorted(EngineStore(folder).engines(), key=lambda one: one.graph_name)
    ]
    if rows:
        return rows, ""
    if backend == DEFAULT_BACKEND:
        return [], f"no engine: backend {DEFAULT_BACKEND} builds none that it keeps"
    return [], f"no engine in `{folder}`"
