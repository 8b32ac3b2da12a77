"""Pictures of results: the part, its heat map on the profile's fixed scale, regions, verdict.

The colour scale belongs to the profile, never to the picture: equal colours mean equal values in
every picture of a product, and a good part stays dark.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import StorageError
from cff_runtime.profile import Profile
from cff_runtime.result import Result
from cff_runtime.storage import atomic_write

_MIN_SIDE_PX, _MAX_SIDE_PX = 512, 1024  # of the longer side
_MIN_WIDTH_PX = 320  # room for the caption
_OPACITY = 0.65
_CAPTION_PX = 36
VERDICT_RGB = {"pass": (46, 125, 50), "review": (176, 100, 0), "reject": (198, 40, 40)}
_TEXT_RGB = (255, 255, 255)
_BOX_RGB, _OUTLINE_RGB, _MARGIN_RGB = (255, 255, 255), (0, 0, 0), (32, 32, 32)


def heat_map(
    anomaly_map: NDArray[np.float32], display_range: tuple[float, float]
) -> NDArray[np.uint8]:
    """Colour a map [H,W] on a fixed scale; return RGB [H,W,3], uint8."""
    levels = np.rint(_relative(anomaly_map, display_range) * 255).astype(np.uint8)
    coloured = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(coloured[:, :, ::-1])


def draw_overlay(image: NDArray[np.uint8], result: Result, profile: Profile) -> NDArray[np.uint8]:
    """Draw the heat map, the regions and a caption over an image.

    Parameters
    ----------
    image : ndarray of shape (h, w, 3), uint8
        The inspected image.
    result : Result
    profile : Profile
        Gives the colour scale.

    Returns
    -------
    ndarray of shape (h' + 36, max(w', 320), 3), uint8
        RGB. The part is scaled so that its longer side has 512 to 1024 px; a margin at the right
        of a narrow one makes room for the caption below.
    """
    longer = max(image.shape[:2])
    scale = min(max(longer, _MIN_SIDE_PX), _MAX_SIDE_PX) / longer
    width = max(1, round(image.shape[1] * scale))
    height = max(1, round(image.shape[0] * scale))
    smooth = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    canvas = cv2.resize(image, (width, height), interpolation=smooth)
    values = np.asarray(
        cv2.resize(result.anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR), np.float32
    )
    strength = _relative(values, profile.display_range)[:, :, None] * _OPACITY
    blended = canvas * (1.0 - strength) + heat_map(values, profile.display_range) * strength
    canvas = np.rint(blended).astype(np.uint8)
    scale_x, scale_y = width / image.shape[1], height / image.shape[0]
    for colour, thickness in ((_OUTLINE_RGB, 4), (_BOX_RGB, 2)):  # seen on light and dark parts
        for region in result.regions:
            x, y, w, h = region.box
            corner = (round(x * scale_x), round(y * scale_y))
            opposite = (round((x + w) * scale_x) - 1, round((y + h) * scale_y) - 1)
            cv2.rectangle(canvas, corner, opposite, colour, thickness)
    margin = max(0, _MIN_WIDTH_PX - width)
    filled = np.full((height, margin, 3), _MARGIN_RGB, np.uint8)
    return np.vstack([np.hstack([canvas, filled]), _caption(width + margin, result)])


def save_overlay(path: Path, image: NDArray[np.uint8], result: Result, profile: Profile) -> None:
    """Draw an overlay and write it as PNG.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    picture = draw_overlay(image, result, profile)
    ok, data = cv2.imencode(".png", picture[:, :, ::-1])
    if not ok:
        raise StorageError(f"`{path}` could not be encoded as PNG")
    atomic_write(path, data.tobytes())


def _relative(
    values: NDArray[np.float32], display_range: tuple[float, float]
) -> NDArray[np.float32]:
    low, high = display_range
    return np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0).astype(np.float32)


def _caption(width: int, result: Result) -> NDArray[np.uint8]:
    strip = np.full((_CAPTION_PX, width, 3), VERDICT_RGB[result.verdict], np.uint8)
    limits = f"limit {result.threshold:.4f}"
    if result.review_threshold is not None:
        limits = f"limits {result.review_threshold:.4f}, {result.threshold:.4f}"
    text = f"{result.verdict}   score {result.score:.4f}   {limits}"
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, 1
    (text_width, _), _ = cv2.getTextSize(text, font, 0.6, thickness)
    scale = 0.6 * min(1.0, (width - 16) / text_width)
    cv2.putText(strip, text, (8, 24), font, scale, _TEXT_RGB, thickness, cv2.LINE_AA)
    return strip
