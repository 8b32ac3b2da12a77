"""Opening a graph in ONNX Runtime on the CPU, as the runtime's backend does."""

from pathlib import Path

import onnxruntime as ort

from cff_runtime.errors import BackendError


def open_session(path: Path, threads: int = 0) -> ort.InferenceSession:
    """Load a graph; `threads` of one operator, 0 lets ONNX Runtime choose.

    Raises
    ------
    BackendError
        If ONNX Runtime cannot load it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: they come back as exceptions
    # every session has its own threads; left spinning after a run they slow the next session
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises many kinds, all bare Exceptions
        raise BackendError(f"ONNX Runtime cannot load `{path}`: {error}") from error
