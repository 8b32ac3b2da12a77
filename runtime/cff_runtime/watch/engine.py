"""The engine of a watch: a verified bundle on its backend, and profiles that were tried on it."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cff_runtime.bundle import Bundle
from cff_runtime.errors import ProfileError, ProfileMismatchError
from cff_runtime.inspector import Inspector
from cff_runtime.manifest import MANIFEST_NAME
from cff_runtime.opening import open_named_backend
from cff_runtime.profile import Profile
from cff_runtime.result import Result
from cff_runtime.storage import sha256_file
from cff_runtime.trust.policy import TRUSTED_KEY_VARIABLE
from cff_runtime.trust.signature import BUNDLE_SIGNATURE_NAME
from cff_runtime.watch.camera_checks import blank_references
from cff_runtime.watch.condition import ConditionWatch
from cff_runtime.watch.config import WatchConfig

Signature = tuple[tuple[int, int, int], ...] | None


class Engine(Protocol):
    """What the watch needs of a bundle that is open."""

    bundle_id: str
    files: tuple[Path, ...]

    def load(self, path: Path) -> tuple[Any, str, NDArray[np.uint8]]:
        """Return a profile that fits, the hash of its file, and its reference images [K,H,W,3]."""
        ...

    def inspect(self, pixels: NDArray[np.uint8], profile: Any) -> Result:
        """Inspect an image [h,w,3], RGB."""
        ...

    def preprocess(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image as the encoder and the references see it."""
        ...


OpenEngine = Callable[[WatchConfig], Engine]


@dataclass(frozen=True, eq=False)
class Judge:
    """An engine and a profile that was tried on it, exchanged as one between two frames.

    Attributes
    ----------
    engine : Engine
    profile : Profile
    profile_sha256 : str
        Of the profile's file.
    product : str
    condition : ConditionWatch
    usual : frozenset of str
        See `blank_references`.
    """

    engine: Engine
    profile: Any
    profile_sha256: str
    product: str
    condition: ConditionWatch
    usual: frozenset[str]

    @classmethod
    def load(cls, engine: Engine, path: Path) -> "Judge":
        """Load a profile and inspect one of its references with it.

        Raises
        ------
        CffError
            If it is damaged, of another bundle, not signed as it must be, or the engine fails.
        """
        profile, digest, references = engine.load(path)
        engine.inspect(references[0], profile)  # uploads the memory banks, too
        usual = blank_references(references)
        return cls(engine, profile, digest, profile.product, ConditionWatch(references), usual)


class BundleEngine:
    """A bundle of `cff-export` on one of the backends.

    Parameters
    ----------
    config : WatchConfig

    Raises
    ------
    CffError
        If bundle, signature, profile or backend are not as they must be.
    """

    def __init__(self, config: WatchConfig) -> None:
        self._trusted = config.trusted_key or None
        bundle = Bundle.open(config.bundle, trusted=self._trusted)
        first = Profile.load(config.sources[0].profile, self._trusted)
        bundle = bundle.view(first.precision_in(bundle.manifest))
        arguments = argparse.Namespace(
            backend=config.backend,
            provider=config.provider,
            threads=config.threads,
            provider_option=config.provider_option,
            backend_option=config.backend_option,
        )
        self._inspector = Inspector(bundle, open_named_backend(arguments, bundle))
        self.bundle_id = bundle.manifest.id
        names = [MANIFEST_NAME, *bundle.manifest.files]
        if (bundle.path / BUNDLE_SIGNATURE_NAME).exists():
            names.append(BUNDLE_SIGNATURE_NAME)
        keys = config.trusted_key
        if not keys and (value := os.environ.get(TRUSTED_KEY_VARIABLE)):
            keys = tuple(Path(path) for path in value.split(os.pathsep) if path)
        self.files = tuple(bundle.path / name for name in names) + keys

    def load(self, path: Path) -> tuple[Profile, str, NDArray[np.uint8]]:
        """See `Engine`."""
        digest = _digest(path)
        profile = check_profile(Profile.load(path, self._trusted))
        if _digest(path) != digest:
            raise ProfileError(f"`{path}` must not change while it is read, and it did")
        manifest = self._inspector.bundle.manifest
        if profile.bundle_id != manifest.id and profile.bundle_id in {
            manifest.view(precision).id for precision in manifest.precisions
        }:
            raise ProfileMismatchError(
                f"`{path}` must be of precision {manifest.precision} like the first profile: "
                "all sources share one encoder; enrol it with that precision"
            )
        profile.require_bundle(manifest)
        return profile, digest, profile.reference_images

    def inspect(self, pixels: NDArray[np.uint8], profile: Profile) -> Result:
        """See `Engine`."""
        return self._inspector.inspect(pixels, profile)

    def preprocess(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `Engine`."""
        return self._inspector.bundle.manifest.preprocessing(pixels)


def check_profile(profile: Profile) -> Profile:
    """Return a profile that may be used; the place for further rules than its signature."""
    return profile


def file_signature(paths: tuple[Path, ...]) -> Signature:
    """Return inode, time and size of files, which tell a change; None if one is missing."""
    try:
        return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in (path.stat() for path in paths))
    except OSError:
        return None


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise ProfileError(f"profile `{path}` must be readable: {error.strerror}") from error
