"""What a profile was made with, so that a refusal can say what differs.

The bundle's id alone decides whether a profile fits. It is one hash over everything that decides a
score; the facts here are kept beside it to name the difference.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cff_runtime.errors import ProfileError
from cff_runtime.jsonfields import take
from cff_runtime.manifest import Manifest
from cff_runtime.storage import sha256_bytes


@dataclass(frozen=True)
class Origin:
    """The encoder, precision and preprocessing that a profile was enrolled with.

    Attributes
    ----------
    precision : str
        Of the encoder.
    encoder_sha256 : str
        Hash over the encoder's graph and weights.
    preprocessing : mapping
        As it stands in the manifest.
    distance : str
        How the stages' distances are summed.
    map_weight : float
        Weight of the encoder's map.
    score_statistic : str
        What of the anomaly map makes the image score.
    """

    precision: str
    encoder_sha256: str
    preprocessing: Mapping[str, Any]
    distance: str
    map_weight: float
    score_statistic: str

    @classmethod
    def of(cls, manifest: Manifest) -> "Origin":
        """Return the facts of a bundle as one of its precisions sees it."""
        return cls(
            precision=manifest.precision,
            encoder_sha256=_encoder_sha256(manifest),
            preprocessing=manifest.preprocessing.to_dict(),
            distance=manifest.distance,
            map_weight=manifest.map.weight,
            score_statistic=manifest.score.statistic,
        )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Origin":
        """Read a profile's entry.

        Raises
        ------
        ProfileError
            If a field is missing or of a wrong type.
        """
        preprocessing = take(fields, "preprocessing", dict, ProfileError)
        for side in ("height", "width"):
            take(preprocessing, side, int, ProfileError)
        return cls(
            precision=take(fields, "precision", str, ProfileError),
            encoder_sha256=take(fields, "encoder_sha256", str, ProfileError),
            preprocessing=preprocessing,
            distance=take(fields, "distance", str, ProfileError),
            map_weight=take(fields, "map_weight", float, ProfileError),
            score_statistic=take(fields, "score_statistic", str, ProfileError),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return int(self.preprocessing["height"]), int(self.preprocessing["width"])

    def differences(self, manifest: Manifest) -> list[str]:
        """Say in words what a bundle does otherwise; nothing if that cannot be told.

        The encoders are compared in the profile's precision where the bundle has it: the same
        weights in fp16 are another precision, not another encoder.
        """
        found = []
        comparable = self.precision in (manifest.precision, *manifest.variants)
        view = manifest.view(self.precision) if comparable else manifest
        if comparable and self.encoder_sha256 != _encoder_sha256(view):
            found.append("another encoder")
        if self.precision != manifest.precision:
            known = self.precision in manifest.precisions
            have = "" if known else f", which has {', '.join(manifest.precisions)}"
            found.append(
                f"precision {self.precision}, not the {manifest.precision} of this bundle{have}"
            )
        here = manifest.preprocessing.to_dict()
        if dict(self.preprocessing) != here:
            changed = sorted(
                name for name in here if self.preprocessing.get(name, None) != here[name]
            )
            found.append(
                "another preprocessing ("
                + ", ".join(
                    f"{n} {self.preprocessing.get(n)!r:.40}, here {here[n]}" for n in changed
                )
                + ")"
            )
        if self.distance != manifest.distance:
            found.append(f"distance {self.distance:.40}, here {manifest.distance}")
        if self.map_weight != manifest.map.weight:
            found.append(f"map weight {self.map_weight:g}, here {manifest.map.weight:g}")
        if self.score_statistic != manifest.score.statistic:
            found.append(
                f"score from the map's {self.score_statistic:.40}, here its "
                f"{manifest.score.statistic}"
            )
        return found


def _encoder_sha256(manifest: Manifest) -> str:
    """Hash the hashes of the encoder's graph and, where they stand beside it, its weights."""
    names = (manifest.encoder, f"{manifest.encoder}.data")
    hashes = [manifest.files[name].sha256 for name in names if name in manifest.files]
    return sha256_bytes("".join(hashes).encode())
