"""What all contestants inspect: one bundle, K good parts, one image; handed over in a folder."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime import Profile
from cff_runtime.backends import Backend
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BundleError, UsageError
from cff_runtime.imaging import load_image
from cff_runtime.manifest import DEFAULT_PRECISION, Manifest
from cff_runtime.origin import Origin
from cff_runtime.product_check import mean_features
from cff_runtime.profile_history import now_utc
from cff_runtime.references import Reference, pixels_sha256
from cff_runtime.thresholds import Threshold
from cff_runtime.verification import golden_condition

GOLDEN_SHOTS = 4
_LIMIT = 1.0  # of a profile that nobody decides with
_FACTS, _REFERENCES, _IMAGE = "subject.json", "references.npy", "image.npy"


@dataclass(frozen=True, eq=False)
class Subject:
    """What is inspected, and with what.

    Attributes
    ----------
    bundle : Path
    profile : Path or None
        Gives condition and decision rule; None takes the golden images' and a rule of no meaning.
        Memory banks are made anew from `references`, by every contestant with its own features.
    run : Path or None
        Of the training run behind the bundle; None where PyTorch takes an untrained head.
    threads : int
    references : ndarray of shape (K, H, W, 3), uint8
        Good parts, at the network's size.
    image : ndarray of shape (h, w, 3), uint8
        The part to inspect, decoded.
    """

    bundle: Path
    profile: Path | None
    run: Path | None
    threads: int
    references: NDArray[np.uint8]
    image: NDArray[np.uint8]

    def save(self, folder: Path) -> None:
        """Write it for the contestants' processes."""
        paths = {"bundle": self.bundle, "profile": self.profile, "run": self.run}
        facts: dict[str, Any] = {
            name: None if path is None else str(path.resolve()) for name, path in paths.items()
        }
        facts["threads"] = self.threads
        (folder / _FACTS).write_text(json.dumps(facts))
        np.save(folder / _REFERENCES, self.references)
        np.save(folder / _IMAGE, self.image)

    @classmethod
    def load(cls, folder: Path) -> "Subject":
        """Read what `save` wrote."""
        facts = json.loads((folder / _FACTS).read_text())
        return cls(
            bundle=Path(facts["bundle"]),
            profile=None if facts["profile"] is None else Path(facts["profile"]),
            run=None if facts["run"] is None else Path(facts["run"]),
            threads=facts["threads"],
            references=np.load(folder / _REFERENCES),
            image=np.load(folder / _IMAGE),
        )

    def template(self) -> Profile:
        """Return a profile with a condition and a decision rule, but without memory banks."""
        if self.profile is not None:
            return Profile.load(self.profile)
        bundle = Bundle.open(self.bundle)
        rule = Threshold(_LIMIT, _LIMIT, "by-hand", len(self.references), (), (), 1.0, "", _LIMIT)
        return Profile(
            product="golden images",
            bundle_id=bundle.manifest.id,
            origin=Origin.of(bundle.manifest),
            banks=(),
            means=(),
            condition=golden_condition(bundle),
            reference_images=self.references,
            references=(),
            threshold=rule,
            display_range=(0.0, _LIMIT),
            peak_scale=1.0,
            condition_name="golden images",
            product_limit=_LIMIT,
            settings={},
            compression=None,
            history=(),
        )


def choose_subject(
    bundle: Path, profile: Path | None, run: Path | None, image: Path | None, threads: int
) -> Subject:
    """Choose references and image.

    References are the profile's, or the bundle's golden images. Without a file the image is the
    profile's first reference, a part of the product that needs no resizing, or a golden image that
    is no reference.

    Raises
    ------
    BundleError
        If the bundle lacks the golden images that are needed.
    UsageError
        If the profile was enrolled with another network input.
    CffError
        Whatever opening the bundle, the profile and the image raises.
    """
    opened = Bundle.open(bundle)
    if profile is None:
        references, default = _golden_images(opened)
    else:
        references = Profile.load(profile).reference_images
        default = references[0]
    size = (opened.manifest.preprocessing.height, opened.manifest.preprocessing.width)
    if references.shape[1:3] != size:
        raise UsageError(
            f"`--profile` must be enrolled at {size[0]} x {size[1]} px, as the bundle has it, "
            f"got {references.shape[1]} x {references.shape[2]}; enrol the product with this bundle"
        )
    pixels = default if image is None else load_image(image)
    return Subject(bundle, profile, run, threads, references, pixels)


def _golden_images(bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return references [K,H,W,3] and an image [h,w,3] out of a bundle's golden images."""
    names = sorted(name for name in bundle.manifest.files if name.startswith("golden/golden_"))
    if len(names) <= GOLDEN_SHOTS:
        raise BundleError(
            f"`{bundle.path}` must hold more than {GOLDEN_SHOTS} golden images to take the place "
            f"of a profile, got {len(names)}; export it again, or give `--profile`"
        )
    images = [load_image(bundle.file(name)) for name in names[: GOLDEN_SHOTS + 1]]
    references = [bundle.manifest.preprocessing(image) for image in images[:GOLDEN_SHOTS]]
    return np.stack(references), images[GOLDEN_SHOTS]


def bench_profile(
    template: Profile,
    manifest: Manifest,
    backend: Backend,
    references: Sequence[NDArray[np.uint8]],
) -> Profile:
    """Return the template with the memory banks that a backend makes of the references.

    A precision has features of its own. The threshold stays: it decides nothing that takes time.
    """
    encodings = [
        backend.encode(np.ascontiguousarray(one), template.condition) for one in references
    ]
    features = [[backend.download(handle) for handle in one.features] for one in encodings]
    searched = [one[: len(manifest.searched)] for one in features]
    means = [mean_features(one) for one in features]
    size = (manifest.preprocessing.width, manifest.preprocessing.height)
    return dataclasses.replace(
        template,
        bundle_id=manifest.id,
        origin=Origin.of(manifest),
        banks=tuple(np.concatenate(stage) for stage in zip(*searched, strict=True)),
        means=tuple(np.stack(stage) for stage in zip(*means, strict=True)),
        reference_images=np.stack(references),
        references=tuple(
            Reference(f"reference {number}", pixels_sha256(pixels), now_utc(), size)
            for number, pixels in enumerate(references, start=1)
        ),
        compression=None,
    )


def admitted_precisions(manifest: Manifest) -> list[str]:
    """Return the bundle's precisions that passed the parity gate and that a CPU computes as such.

    ONNX Runtime computes float16 in float32 on a CPU, so that fp16 and int8-qdq, which is float16
    beside, would say nothing.
    """
    return [name for name in manifest.precisions if name in (DEFAULT_PRECISION, "int8")]
