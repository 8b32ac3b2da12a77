"""A cheap judge: how far each output of a candidate is from the float32 encoder's, on few images.

The error is 1 - mean cosine of the worst stage, infinite where any output is not finite. Where one
is not, the suspects are the blocks upstream of the earliest such output.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cff_export.graph_files import read_graph
from cff_export.precision.costs import upstream_blocks
from cff_export.precision.repair import Judgement
from cff_runtime.backends.cpu_session import CpuSession

_STAGE = "features_"


class StageProbe:
    """Judges graphs by the cosines of their stages to those of the float32 encoder."""

    def __init__(
        self,
        source: Path,
        images: Sequence[NDArray[np.uint8]],
        text: NDArray[np.float32],
        limit: float = 0.0,
    ) -> None:
        """Run the float32 encoder.

        Parameters
        ----------
        source : Path
            Its graph.
        images : sequence of ndarrays of shape (H, W, 3), uint8
        text : ndarray of shape (C, 2), float32
        limit : float
            Largest 1 - mean cosine of a stage that passes.
        """
        model = read_graph(source)
        self._names = [str(value.name) for value in model.graph.outputs]
        self._upstream = {name: upstream_blocks(model, name) for name in self._names}
        self._feeds = [{"image": image[None], "text": text} for image in images]
        self._limit = limit
        self._expected = self._run(source)

    def __call__(self, graph: Path) -> Judgement:
        """Judge a graph that ONNX Runtime can run on the CPU."""
        got = self._run(graph)
        broken = [name for name in self._names if not _all_finite(got[name])]
        if broken:
            # fewest blocks before it: the earliest
            earliest = min(broken, key=lambda name: len(self._upstream[name]))
            failures = tuple(f"`{name}` is not finite" for name in broken)
            return Judgement(False, float("inf"), failures, self._upstream[earliest])
        errors = {
            name: 1.0 - mean_cosine(got[name], self._expected[name])
            for name in self._names
            if name.startswith(_STAGE)
        }
        failures = tuple(
            f"`{name}` has a mean cosine of {1.0 - error:.6f}, at least {1.0 - self._limit:.6f} "
            "must be"
            for name, error in errors.items()
            if not error <= self._limit
        )
        return Judgement(not failures, max(errors.values()), failures)

    def _run(self, graph: Path) -> dict[str, list[NDArray[np.float32]]]:
        session = CpuSession(graph)
        rows = [session.run(self._names, feed) for feed in self._feeds]
        return {name: [row[index] for row in rows] for index, name in enumerate(self._names)}


def mean_cosine(got: Sequence[NDArray[np.float32]], want: Sequence[NDArray[np.float32]]) -> float:
    """Return the mean cosine between the rows of arrays [1,N,C]."""
    cosines = []
    for one, other in zip(got, want, strict=True):
        a, b = one.astype(np.float64), other.astype(np.float64)
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosines.append(((a * b).sum(axis=-1) / np.maximum(norms, 1e-12)).ravel())
    return float(np.concatenate(cosines).mean())


def _all_finite(arrays: Sequence[NDArray[np.float32]]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)
