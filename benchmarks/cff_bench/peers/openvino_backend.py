"""A bundle's graphs on OpenVINO's CPU plugin, as a backend of the runtime.

What stands around the graphs (resizing, fusing maps, regions, verdict) is then the runtime's own,
so that only the engine differs. The graphs are the bundle's files as they are; the batch is fixed
to one and the latency hint given, as OpenVINO's guide asks of everyone. Features stay in OpenVINO's
memory; a bank is searched in one call, or in the chunks that the runtime gives to devices.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from cff_runtime.backends import Encoding
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # precision -> of what is not int8
_CHUNK_ROWS = 1024
_BELOW_ANY_COSINE = -2.0


def can_compute(precision: str) -> bool:
    """Whether the CPU plugin says that it computes a precision natively here."""
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return precision.upper() in capabilities


class OpenVinoBackend:
    """Encoder and scorers of a bundle, compiled for the CPU.

    Parameters
    ----------
    bundle : Bundle
        Seen by the precision whose graph is meant.
    precision : {'fp32', 'bf16', 'int8'}
        ``bf16`` runs the fp32 graph with OpenVINO's hint; scorers follow it.
    threads : int

    Raises
    ------
    BackendError
        If OpenVINO cannot read or compile a graph.
    """

    def __init__(self, bundle: Bundle, precision: str, threads: int) -> None:
        manifest = bundle.manifest
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": HINTS[precision],
        }
        core = openvino.Core()
        size = (manifest.preprocessing.height, manifest.preprocessing.width)
        shapes = {"image": [1, *size, 3], manifest.condition.input: list(manifest.condition.shape)}
        self._encoder = self._compile(core, bundle, manifest.encoder, shapes)
        self._scorers = [self._compile(core, bundle, name, None) for name in manifest.scorers]
        self._n_stages = len(manifest.stages)
        self._condition_name, self._map_name = manifest.condition.input, manifest.map.output
        self._score_name = manifest.score.output
        self._start = [
            np.full(stage.n_tokens, _BELOW_ANY_COSINE, np.float32) for stage in manifest.stages
        ]

    def encode(self, image: NDArray[np.uint8], condition: NDArray[np.float32]) -> Encoding:
        """Encode an image [H,W,3], uint8, with a condition of the manifest's shape, float32."""
        inputs = {"image": image[None], self._condition_name: condition}
        found = self._encoder.infer(inputs, share_inputs=True)
        features = tuple(found[f"features_{n}"].copy() for n in range(self._n_stages))
        score = None if self._score_name is None else float(found[self._score_name][0])
        return Encoding(features, found[self._map_name][0].copy(), score)

    def upload_bank(self, bank: NDArray[np.float32]) -> list[Any]:
        """Return a memory bank [M_s,C_s] in chunks of rows, in OpenVINO's own tensors."""
        return [
            openvino.Tensor(np.ascontiguousarray(bank[start : start + _CHUNK_ROWS]))
            for start in range(0, len(bank), _CHUNK_ROWS)
        ]

    def search(self, stage: int, features: Any, bank: Sequence[Any]) -> NDArray[np.float32]:
        """Return the largest cosine to the bank, [N_s], float32."""
        best = self._start[stage]
        scorer = self._scorers[stage]
        for chunk in bank:
            inputs = {"features": features, "bank": chunk, "best_so_far": best}
            best = scorer.infer(inputs, share_inputs=True)["best"].copy()
        return best

    def download(self, features: Any) -> NDArray[np.float32]:
        """Return features as a float32 array [N_s,C_s]."""
        array: NDArray[np.float32] = features[0]
        return array

    def _compile(
        self, core: Any, bundle: Bundle, name: str, shapes: dict[str, list[int]] | None
    ) -> Any:
        try:
            model = core.read_model(str(bundle.file(name)))
            if shapes is not None:
                model.reshape(shapes)
            return core.compile_model(model, "CPU", self._settings).create_infer_request()
        except Exception as error:  # OpenVINO raises RuntimeError for everything, lines long
            first = str(error).strip().splitlines()[-1][:160]
            raise BackendError(f"OpenVINO cannot load `{name}`: {first}") from error
