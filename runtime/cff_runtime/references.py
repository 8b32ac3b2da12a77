"""The reference images that a profile carries, and where they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import ProfileError, UsageError
from cff_runtime.jsonfields import take
from cff_runtime.storage import sha256_bytes

MAX_REFERENCES = 1 << 16


@dataclass(frozen=True)
class Reference:
    """A good part that a profile was enrolled with.

    Attributes
    ----------
    name : str
        Of its file.
    sha256 : str
        Of its preprocessed pixels, row by row.
    added : str
        When it was enrolled, UTC.
    size : tuple of int
        Width and height in pixels of the image as it was given.
    """

    name: str
    sha256: str
    added: str
    size: tuple[int, int]

    @classmethod
    def from_dict(cls, fields: Any) -> "Reference":
        """Read a profile's entry.

        Raises
        ------
        ProfileError
            If it is no object, or a field is missing or of a wrong type.
        """
        if not isinstance(fields, Mapping):
            raise ProfileError(f"every entry of `references` must be an object, got {fields!r:.80}")
        size = take(fields, "size", list, ProfileError)
        if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            raise ProfileError(f"`size` of a reference must be two sides in px, got {size!r:.80}")
        return cls(
            name=take(fields, "name", str, ProfileError),
            sha256=take(fields, "sha256", str, ProfileError),
            added=take(fields, "added", str, ProfileError),
            size=(size[0], size[1]),
        )


@dataclass(frozen=True, eq=False)
class ReferenceImage:
    """A reference ready to be enrolled.

    Attributes
    ----------
    reference : Reference
    pixels : ndarray of shape (H, W, 3), uint8
        Preprocessed.
    """

    reference: Reference
    pixels: NDArray[np.uint8]


def pixels_sha256(pixels: NDArray[np.uint8]) -> str:
    """Return the hash of a preprocessed image [H,W,3]."""
    return sha256_bytes(np.ascontiguousarray(pixels).tobytes())


def find_reference(references: Sequence[Reference], which: str) -> int:
    """Return the index of the reference of that name or number, counted from 1.

    A name goes before a number, as a file may be called ``3``.

    Raises
    ------
    UsageError
        If there is none, or several have the name.
    """
    found = [index for index, reference in enumerate(references) if reference.name == which]
    if not found and which.isascii() and which.isdigit() and 1 <= int(which) <= len(references):
        found = [int(which) - 1]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = ", ".join(str(index + 1) for index in found)
        raise UsageError(
            f"reference must be one, got {which!r}, the name of several; "
            f"give one of the numbers {numbers}"
        )
    raise UsageError(
        f"reference must be a name or a number from 1 to {len(references)}, got {which!r:.80}; "
        "see them with `cff-run show`"
    )
