"""A cheap judge: how far each output of a candidate is from the float32 encoder's, on few images.

The error is 1 - mean cosine of the worst stage, infinite where any output is not finite. A map that
is not made of the stages has blocks of its own, which no stage shows: it is named as a further
output, whose error is half its squared relative distance, which is 1 - cosine for equal lengths.
Where one is not finite, the suspects are the blocks upstream of the earliest such output.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cff_export.feeds import feeds
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
        condition: NDArray[np.float32],
        limit: float = 0.0,
        further: Sequence[str] = (),
    ) -> None:
        """Run the float32 encoder.

        Parameters
        ----------
        source : Path
            Its graph.
        images : sequence of ndarrays of shape (H, W, 3), uint8
        condition : ndarray, float32
            The encoder's second input.
        limit : float
            Largest error of an output that passes.
        further : sequence of str
            Outputs that are judged besides the stages.
        """
        model = read_graph(source)
        self._names = [str(value.name) for value in model.graph.outputs]
        self._upstream = {name: upstream_blocks(model, name) for name in self._names}
        self._images, self._condition = images, condition
        self._limit, self._further = limit, further
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
        errors |= {name: _distance(got[name], self._expected[name]) for name in self._further}
        failures = tuple(
            f"`{name}` has a mean cosine of {1.0 - error:.6f}, at least {1.0 - self._limit:.6f} "
            "must be"
            if name.startswith(_STAGE)
            else f"`{name}` has an error of {error:.1e}, at most {self._limit:.1e} may be"
            for name, error in errors.items()
            if not error <= self._limit
        )
        return Judgement(not failures, max(errors.values()), failures)

    def _run(self, graph: Path) -> dict[str, list[NDArray[np.float32]]]:
        session = CpuSession(graph)
        rows = [
            session.run(self._names, feeds(session, image[None], self._condition))
            for image in self._images
        ]
        return {name: [row[index] for row in rows] for index, name in enumerate(self._names)}


def mean_cosine(got: Sequence[NDArray[np.float32]], want: Sequence[NDArray[np.float32]]) -> float:
    """Return the mean cosine between the rows of arrays [1,N,C]."""
    cosines = []
    for one, other in zip(got, want, strict=True):
        a, b = one.astype(np.float64), other.astype(np.float64)
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosines.append(((a * b).sum(axis=-1) / np.maximum(norms, 1e-12)).ravel())
    return float(np.concatenate(cosines).mean())


def _distance(got: Sequence[NDArray[np.float32]], want: Sequence[NDArray[np.float32]]) -> float:
    """Return half the mean squared distance of arrays, relative to the lengths of those wanted."""
    shares = []
    for one, other in zip(got, want, strict=True):
        a, b = one.astype(np.float64), other.astype(np.float64)
        shares.append(0.5 * np.square(a - b).sum() / max(float(np.square(b).sum()), 1e-24))
    return float(np.mean(shares))


def _all_finite(arrays: Sequence[NDArray[np.float32]]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)
