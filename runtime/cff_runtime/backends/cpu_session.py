"""A graph in ONNX Runtime on the CPU, its threads as the backend has them.

The exporter's and the benchmarks' own graphs run through it, so that they are weighed as the box
will run them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from cff_runtime.backends.core_places import CorePlaces
from cff_runtime.errors import BackendError


class CpuSession:
    """One graph; may be run by several callers at once.

    Parameters
    ----------
    model : Path or bytes
        File or content of the graph.
    threads : int, default=0
        Of one operator; 0 takes what there is.

    Raises
    ------
    BackendError
        If ONNX Runtime cannot load it.
    """

    def __init__(self, model: Path | bytes, threads: int = 0) -> None:
        self._places = CorePlaces(threads)
        options = session_options(threads, self._places)
        given = model if isinstance(model, bytes) else str(model)
        try:
            self._session = ort.InferenceSession(given, options, ["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many kinds, all bare Exceptions
            name = "the graph" if isinstance(model, bytes) else f"`{model}`"
            raise BackendError(f"ONNX Runtime cannot load {name}: {error}") from error

    def get_inputs(self) -> list[Any]:
        """Return ONNX Runtime's descriptions of the inputs, with `name` and `shape`."""
        return list(self._session.get_inputs())

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """Run the graph; None gives all outputs, in its own order."""
        with self._places.caller():
            results: list[Any] = self._session.run(outputs, dict(feeds))
        return results


def session_options(threads: int, places: CorePlaces) -> ort.SessionOptions:
    """Return the options of a session whose caller runs within `places.caller()`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: they come back as exceptions
    # every session has its own threads; left spinning after a run they slow the next session
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if places.cores:
        options.intra_op_num_threads = places.n_threads
        options.add_session_config_entry("session.intra_op_thread_affinities", places.affinities)
    return options
