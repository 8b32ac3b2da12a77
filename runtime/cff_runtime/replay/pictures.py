"""Small pictures of a part and of both maps over it, and a shelf that keeps the most telling."""

import heapq
import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cff_runtime.overlay import heat_map
from cff_runtime.profile import Profile
from cff_runtime.replay.rescoring import Rescored, Views
from cff_runtime.result import Result

MAX_MOVERS = 12
RAMP_SHAPE = (12, 160)
_SIDE_PX = 320  # of the longer side
_OPACITY = 0.65
_BOX_RGB, _OUTLINE_RGB = (255, 255, 255), (0, 0, 0)
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class Triptych:
    """The part, the old map over it, the new map over it: JPEG files."""

    part: bytes
    old: bytes
    new: bytes


class Shelf:
    """Keeps pictures of the changed parts that moved furthest, and of a few unchanged ones.

    Parameters
    ----------
    limit : int
        Changed parts kept; of unchanged ones at most `MAX_MOVERS`. Memory is bounded by it.
    """

    def __init__(self, limit: int) -> None:
        self._limits = {True: limit, False: min(limit, MAX_MOVERS)}
        self._kept: dict[bool, list[tuple[float, int, Rescored, Triptych]]] = {True: [], False: []}
        self._n_put = 0

    def wants(self, part: Rescored) -> bool:
        """Whether a picture of the part would be kept, as far as is known now."""
        kept, limit = self._kept[part.is_changed], self._limits[part.is_changed]
        return len(kept) < limit or (limit > 0 and abs(part.shift) > kept[0][0])

    def put(self, part: Rescored, pictures: Triptych) -> None:
        """Keep pictures; those of the part that moved least go if there is no room."""
        kept, limit = self._kept[part.is_changed], self._limits[part.is_changed]
        self._n_put += 1  # of two that moved alike the later is dropped, and none compared further
        heapq.heappush(kept, (abs(part.shift), -self._n_put, part, pictures))
        if len(kept) > limit:
            heapq.heappop(kept)

    def pictures(self, changed: bool) -> list[tuple[Rescored, Triptych]]:
        """Return what was kept of changed or of unchanged parts, the furthest moved first."""
        kept = sorted(self._kept[changed], key=lambda entry: entry[:2], reverse=True)
        return [(part, pictures) for _, _, part, pictures in kept]


def draw_triptych(views: Views, old: Profile, new: Profile) -> Triptych:
    """Draw a part and both maps, each on the fixed colour scale of its profile."""
    height, width = views.image.shape[:2]
    scale = _SIDE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smooth = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    part = np.asarray(cv2.resize(views.image, size, interpolation=smooth), np.uint8)
    first, second = (
        _jpeg(_lay_over(part, result, profile.display_range, scale))
        for result, profile in ((views.old, old), (views.new, new))
    )
    return Triptych(_jpeg(part), first, second)


def draw_ramp() -> bytes:
    """Return the colour scale, dark to bright, as a JPEG file."""
    ramp = np.broadcast_to(np.linspace(0.0, 1.0, RAMP_SHAPE[1], dtype=np.float32), RAMP_SHAPE)
    return _jpeg(heat_map(np.ascontiguousarray(ramp), (0.0, 1.0)))


def _lay_over(
    part: NDArray[np.uint8], result: Result, display_range: tuple[float, float], scale: float
) -> NDArray[np.uint8]:
    """Blend the map into a part [h',w',3]: normal values leave it as it is, high ones cover it."""
    height, width = part.shape[:2]
    values = np.asarray(cv2.resize(result.anomaly_map, (width, height)), np.float32)
    low, high = display_range
    strength = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)[:, :, None] * _OPACITY
    blended = part * (1.0 - strength) + heat_map(values, display_range) * strength
    canvas = np.rint(blended).astype(np.uint8)
    for colour, thickness in ((_OUTLINE_RGB, 3), (_BOX_RGB, 1)):  # seen on light and dark parts
        for region in result.regions:
            x, y, w, h = (side * scale for side in region.box)
            corner = (round(x), round(y))
            cv2.rectangle(canvas, corner, (round(x + w) - 1, round(y + h) - 1), colour, thickness)
    return canvas


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=_JPEG_QUALITY)
    return data.getvalue()
