"""Good parts that a profile wrongly rejects: adding two of them makes it accept their like.

Real parts photographed anew: turned by a quarter, or through another lens and under another lamp.
"""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import Inspector, Profile
from cff_runtime.imaging import list_images, load_image
from cff_runtime.profile_history import record, store_profile, undo

Picture = NDArray[np.uint8]
PRODUCTS = ("mvtec_mini/bottle", "mvtec_mini/metal_nut", "mvtec_mini/transistor")


def _turned(image: Picture) -> Picture:
    return np.ascontiguousarray(np.rot90(image))


def _other_camera(image: Picture) -> Picture:
    soft = cv2.GaussianBlur(image, (0, 0), image.shape[1] / 256)
    return (soft * np.array([0.6, 0.7, 0.9])).astype(np.uint8)


@pytest.mark.real_parts
@pytest.mark.skipif(not os.environ.get("CFF_DATA"), reason="CFF_DATA names no real images")
@pytest.mark.parametrize("change", [_turned, _other_camera])
def test_added_parts_make_their_like_pass(
    change: Callable[[Picture], Picture], lite_inspector: Inspector, tmp_path: Path
) -> None:
    n_like = n_accepted = 0
    for product in PRODUCTS:
        folder = Path(os.environ["CFF_DATA"]) / product
        profile = lite_inspector.enroll(list_images([folder / "train/good"])[:4], product)
        good = [change(load_image(file)) for file in list_images([folder / "test/good"])[:8]]
        rejected = [part for part in good if _rejected(lite_inspector, part, profile)]
        added, like = rejected[:2], rejected[2:]
        if not like:
            continue
        path = tmp_path / "profile"
        path.unlink(missing_ok=True)
        store_profile(path, record(profile, "test"))
        before = path.read_bytes()

        extended = lite_inspector.add_normals(profile, added)
        store_profile(path, extended)

        n_like += len(like)
        n_accepted += sum(not _rejected(lite_inspector, part, extended) for part in like)
        undo(path)
        assert path.read_bytes() == before
    assert n_like >= 5
    assert n_accepted >= 0.9 * n_like


def _rejected(inspector: Inspector, part: Picture, profile: Profile) -> bool:
    return inspector.inspect(part, profile).verdict == "reject"
