"""The reference's enrolment: from good parts to memory banks and thresholds, in float64.

Only the gentle augmentations are specified in float32, as OpenCV 5 computes them with fused
multiply-adds: a level that rounds the other way moves a score by more than the tolerance.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import reference
from numpy.typing import NDArray
from reference import Doubles, Encoder, Encoding, Image
from reference_thresholds import Wishes, choose_threshold

Singles = NDArray[np.float32]

# degrees, shift in x and y as a share of the side, gain
_AUGMENTATIONS = (
    (1.5, 0.01, 0.0, 1.0),
    (-1.5, -0.01, 0.0, 1.0),
    (0.0, 0.0, 0.015, 1.04),
    (0.0, 0.0, -0.015, 0.96),
)
_BLOCK_PX = 16
_TINY = float(np.finfo(np.float32).tiny)


@dataclass
class Enrolment:
    """What comes out. `gaps`: how clearly every row and template was preferred to all others.

    `template`: the reference that the condition is of.
    """

    banks: list[Singles]
    means: list[Singles]
    condition: Singles
    template: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    kept: list[NDArray[np.int64]] | None = None
    gaps: list[float] = field(default_factory=list)


class Enroller:
    """An encoder with what a manifest says of its stages.

    `word`: condition of a class word, if the manifest says that the condition comes from one.
    """

    def __init__(
        self, encoder: Encoder, manifest: Mapping[str, Any], word: Singles | None = None
    ) -> None:
        self._encoder = encoder
        self._manifest = manifest
        self._word = word
        self._grids = [(stage["grid"][0], stage["grid"][1]) for stage in manifest["stages"]]

    def enroll(
        self,
        images: Sequence[Image],
        wishes: Wishes,
        further: Sequence[Image] = (),
        defects: Sequence[Image] = (),
    ) -> Enrolment:
        """Enrol preprocessed images [H,W,3]."""
        start = self.first_condition()
        encodings = [self._encoder(image, start) for image in images]
        searched = range(len(self._manifest["scorers"]))
        of_image = [[single(e.features[s]) for s in searched] for e in encodings]  # [K][S]
        whole = [np.concatenate([own[s] for own in of_image]) for s in searched]
        means = [np.stack(rows) for rows in zip(*map(_means, encodings), strict=True)]
        result = Enrolment(whole, means, start)
        result.template = self._choose(result, list(range(len(images))))
        result.condition = self._condition(encodings, result.template)
        left_out = self._compress(result, len(images), wishes.max_bank)

        templates = []  # of each reference, among the others
        for index in range(len(images)):
            others = [i for i in range(len(images)) if i != index] or [index]
            templates.append(self._condition(encodings, self._choose(result, others)))
        maps, scores = [], []
        for index in range(len(images) if len(images) > 1 else 0):
            encoding = self._encoder(images[index], templates[index])
            maps.append(self._map(encoding, left_out[index]))
            scores.append(encoding.score)
        for index, image in enumerate(images):
            for moved in augmentations(image):
                encoding = self._encoder(moved, templates[index])
                maps.append(_without_border(self._map(encoding, left_out[index])))
                scores.append(encoding.score)
        result.facts = self._facts(result, len(images), wishes, maps, scores, further, defects)
        return result

    def first_condition(self) -> Singles:
        """Return what references are first encoded with: zeros where templates are chosen."""
        shape = self._manifest["condition"]["shape"]
        return np.zeros(shape, np.float32) if self._word is None else self._word

    def _choose(self, result: Enrolment, among: list[int]) -> int | None:
        """Return the reference that some of them give as template; None with a class word."""
        condition = self._manifest["condition"]
        if condition["source"] == "words":
            return None
        if condition["choice"] == "first" or len(among) < 3:
            return among[0]  # of two each is as near to the other
        means = result.means[condition["stage"]].astype(np.float64)
        sums = [sum(float(means[i] @ means[j]) for j in among if j != i) for i in among]
        best = int(np.argmax(sums))
        result.gaps.append(sums[best] - max(s for i, s in enumerate(sums) if i != best))
        return among[best]

    def _condition(self, encodings: Sequence[Encoding], template: int | None) -> Singles:
        if template is None:
            return self.first_condition()
        return single(encodings[template].features[self._manifest["condition"]["stage"]])

    def _map(self, encoding: Encoding, banks: Sequence[Singles]) -> Doubles:
        searched = encoding.features[: len(banks)]
        nearest = reference.search(searched, [bank.astype(np.float64) for bank in banks])
        found = reference.distances(nearest, self._manifest["distance"])
        weight = self._manifest["map"]["weight"]
        return reference.anomaly_map(found, self._grids, encoding.map, weight)

    def _compress(
        self, result: Enrolment, n_references: int, max_bank: int | None
    ) -> list[list[Singles]]:
        """Compress the banks if asked for; return the banks that each reference is held against."""
        whole = result.banks
        if max_bank is not None and max(map(len, whole)) > max_bank:
            result.kept = []
            for bank in whole:
                rows, gaps = compress(bank.astype(np.float64), max_bank)
                result.kept.append(rows)
                result.gaps += gaps
            result.banks = [bank[rows] for bank, rows in zip(whole, result.kept, strict=True)]
        if n_references == 1:
            return [result.banks]
        left_out = []
        for index in range(n_references):
            banks = []
            for stage, bank in enumerate(whole):
                size = len(bank) // n_references
                rows = np.delete(np.arange(len(bank)), np.s_[index * size : (index + 1) * size])
                if result.kept is not None:
                    rows, gaps = _complete(bank.astype(np.float64), rows, result.kept[stage])
                    result.gaps += gaps
                banks.append(bank[rows])
            left_out.append(banks)
        return left_out

    def _facts(
        self,
        result: Enrolment,
        n_references: int,
        wishes: Wishes,
        maps: Sequence[Doubles],
        encoder_scores: Sequence[float | None],
        further: Sequence[Image],
        defects: Sequence[Image],
    ) -> dict[str, Any]:
        peaks = [float(values.max()) for values in maps]
        peak_scale = 0.5 / max(*peaks, _TINY)

        kind = self._manifest["score"]["statistic"]

        def score(values: Doubles, encoder_score: float | None) -> float:
            statistic = reference.statistic_of(values, kind)
            return reference.score_of(statistic, encoder_score, peak_scale)

        def scored(images: Sequence[Image]) -> tuple[list[float], list[float]]:
            encodings = [self._encoder(image, result.condition) for image in images]
            found = [self._map(encoding, result.banks) for encoding in encodings]
            pairs = zip(found, encodings, strict=True)
            return [score(m, e.score) for m, e in pairs], [float(m.max()) for m in found]

        scores = [score(*pair) for pair in zip(maps, encoder_scores, strict=True)]
        further_scores, further_peaks = scored(further)
        defect_scores, _ = scored(defects)
        threshold = choose_threshold(
            n_references,
            scores,
            peaks,
            encoder_scores,
            further_scores,
            further_peaks,
            defect_scores,
            wishes,
        )
        low = float(np.median(np.concatenate([values.ravel() for values in maps])))
        return {
            **threshold,
            "scores": scores,
            "peaks": peaks,
            "further_scores": further_scores,
            "defective_scores": defect_scores,
            "peak_scale": peak_scale,
            "product_limit": product_limit(result.means),
            "display_range": [low, low + 2.0 * max(threshold["pixel_value"] - low, 1e-6)],
        }


def single(values: Doubles) -> Singles:
    """Return values as they are kept."""
    return values.astype(np.float32)


def augmentations(image: Image) -> Iterator[Image]:
    """Yield four small motions and changes of light of an image [H,W,3], in float32."""
    for degrees, shift_x, shift_y, gain in _AUGMENTATIONS:
        x, y = _sources(image.shape[0], image.shape[1], degrees, shift_x, shift_y)
        yield _rounded(_rounded(_sample(image, x, y)).astype(np.float32) * np.float32(gain))


def _sources(
    height: int, width: int, degrees: float, shift_x: float, shift_y: float
) -> tuple[Singles, Singles]:
    """Return where each pixel of the moved image comes from: x and y, [H,W]."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    centre_x, centre_y = width / 2 - 0.5, height / 2 - 0.5
    right = (1 - cos) * centre_x - sin * centre_y + shift_x * width
    down = sin * centre_x + (1 - cos) * centre_y + shift_y * height
    # of a rotation by cos and sin with a determinant of 1, the inverse turns back
    rows = np.array([[cos, -sin], [sin, cos]])
    shift = -rows @ (right, down)
    column = np.arange(width, dtype=np.float32)[None, :]
    row = np.arange(height, dtype=np.float32)[:, None]
    in_block = column < width // _BLOCK_PX * _BLOCK_PX
    found = []
    for (by_column, by_row), start in zip(rows.astype(np.float32), shift, strict=True):
        of_row, offset = row * by_row, np.float32(start)
        fused = _fma(by_column, column, of_row + offset)
        found.append(np.where(in_block, fused, _fma(by_column, column, of_row) + offset))
    return found[0], found[1]


def _sample(image: Image, x: Singles, y: Singles) -> Singles:
    left, top = np.floor(x), np.floor(y)
    share_x, share_y = (x - left)[:, :, None], (y - top)[:, :, None]

    def level(dy: int, dx: int) -> Singles:
        rows = _mirrored(top.astype(int) + dy, image.shape[0])
        columns = _mirrored(left.astype(int) + dx, image.shape[1])
        return image[rows, columns].astype(np.float32)

    above = _between(level(0, 0), level(0, 1), share_x)
    below = _between(level(1, 0), level(1, 1), share_x)
    return _between(above, below, share_y)


def _between(start: Singles, end: Singles, share: Singles) -> Singles:
    return _fma(share, end - start, start)


def _fma(a: Any, b: Any, c: Any) -> Singles:
    """a b + c with one rounding: the product of float32 is exact in float64."""
    return (np.float64(a) * np.float64(b) + np.float64(c)).astype(np.float32)


def _mirrored(places: NDArray[np.int_], side: int) -> NDArray[np.int_]:
    places = np.abs(places) % (2 * (side - 1))
    return np.where(places > side - 1, 2 * (side - 1) - places, places)


def _rounded(levels: Singles) -> Image:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _without_border(values: Doubles) -> Doubles:
    height, width = values.shape
    y, x = height // 16, width // 16
    return values[y : height - y, x : width - x]


def _means(encoding: Encoding) -> list[Singles]:
    return [single(mean) for mean in reference.mean_features(encoding.features)]


def compress(bank: Doubles, n_rows: int) -> tuple[NDArray[np.int64], list[float]]:
    """Choose rows by greedy k-centre, one at a time, the first nearest to the mean."""
    if n_rows >= len(bank):
        return np.arange(len(bank)), []
    along = bank @ bank.mean(axis=0)
    first = int(along.argmax())
    others = np.delete(along, first)
    rows, gaps = _greedy(bank, [first], np.arange(len(bank)), n_rows)
    return rows, [float(along[first] - others.max()), *gaps]


def _complete(
    bank: Doubles, allowed: NDArray[np.int64], kept: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[float]]:
    """Return as many rows as `kept` has, or all there are: those allowed, then greedy ones."""
    start = [int(row) for row in kept if row in allowed]
    return _greedy(bank, start, allowed, min(len(kept), len(allowed)))


def _greedy(
    bank: Doubles, start: list[int], allowed: NDArray[np.int64], n_rows: int
) -> tuple[NDArray[np.int64], list[float]]:
    """Add the row farthest from all kept ones until there are `n_rows`."""
    kept, gaps = list(start), []
    while len(kept) < n_rows:
        nearest = (bank @ bank[kept].T).max(axis=1)
        free = np.setdiff1d(allowed, kept)
        order = free[np.argsort(nearest[free])]
        if len(order) > 1:
            gaps.append(float(nearest[order[1]] - nearest[order[0]]))
        kept.append(int(order[0]))
    return np.sort(np.array(kept)), gaps


def product_limit(means: Sequence[Singles]) -> float:
    """Return the distance above which an image looks like another product."""
    n_references = len(means[0])
    if n_references == 1:
        return 10.0
    doubles = [rows.astype(np.float64) for rows in means]
    found = []
    for index in range(n_references):
        others = [np.delete(rows, index, axis=0) for rows in doubles]
        found.append(reference.product_distance([rows[index] for rows in doubles], others))
    return min(max(found) + 2.8, 12.0)
