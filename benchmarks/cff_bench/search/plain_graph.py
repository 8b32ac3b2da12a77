"""The search it is compared with: one scorer graph after the other on ONNX Runtime's threads.

Chunks of 1024 rows follow one another, and every operator is split over the threads.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from cff_runtime.bundle import Bundle

_CHUNK_ROWS = 1024
_BELOW_ANY_COSINE = -2.0


class PlainGraph:
    """A bundle's scorers as they are, on the CPU."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # as the backend's sessions: threads left spinning slow whatever comes next
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._sessions = [
            ort.InferenceSession(
                str(bundle.file(name)), options, providers=["CPUExecutionProvider"]
            )
            for name in bundle.manifest.scorers
        ]
        self._start = [
            ort.OrtValue.ortvalue_from_numpy(
                np.full(stage.n_tokens, _BELOW_ANY_COSINE, np.float32), "cpu", 0
            )
            for stage in bundle.manifest.stages
        ]

    def upload_bank(self, bank: NDArray[np.float32]) -> list[Any]:
        """Cut a bank [M_s,C_s] into chunks."""
        return [
            ort.OrtValue.ortvalue_from_numpy(bank[start : start + _CHUNK_ROWS], "cpu", 0)
            for start in range(0, len(bank), _CHUNK_ROWS)
        ]

    def search(self, stage: int, features: Any, bank: Sequence[Any]) -> NDArray[np.float32]:
        """Return the largest cosine to the bank, [N_s], float32."""
        best = self._start[stage]
        for chunk in bank:
            binding = self._sessions[stage].io_binding()
            binding.bind_ortvalue_input("features", features)
            binding.bind_ortvalue_input("bank", chunk)
            binding.bind_ortvalue_input("best_so_far", best)
            binding.bind_output("best", "cpu")
            self._sessions[stage].run_with_iobinding(binding)
            best = binding.get_outputs()[0]
        nearest: NDArray[np.float32] = best.numpy().copy()
        return nearest
