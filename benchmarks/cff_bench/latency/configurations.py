"""What takes turns in one call: bundles and precisions, each opened with a profile of its own."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cff_bench.latency.images import ImageSource
from cff_bench.latency.settings import LatencySettings
from cff_bench.latency.timed_backend import TimedBackend
from cff_runtime import Inspector, Profile
from cff_runtime.backends import open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.errors import UsageError

# names of an inspection's stages, in the order told
STAGES = (
    "decode",
    "preprocess",
    "host_to_device",
    "encode",
    "search",
    "device_to_host",
    "finish",
    "other",
)


@dataclass
class Configuration:
    """A bundle, opened in one precision.

    Attributes
    ----------
    name : str
        Stable key.
    bundle : Path
    precision : str
    inspector : Inspector
    profile : Profile
    profile_path : Path
        Where the profile lies; of one that was enrolled here, a temporary file.
    enrolled_here : bool
    backend : TimedBackend
    timings : list of dict
        Milliseconds of every stage and the total, an inspection each.
    device : list of dict
        What the backend told of each inspection.
    """

    name: str
    bundle: Path
    precision: str
    inspector: Inspector
    profile: Profile
    profile_path: Path
    enrolled_here: bool
    backend: TimedBackend
    timings: list[dict[str, float]] = field(default_factory=list)
    device: list[dict[str, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return what it is, ready for JSON."""
        manifest = self.inspector.bundle.manifest
        return {
            "bundle": {
                "path": str(self.bundle),
                "id": manifest.id,
                "precision": manifest.precision,
                "input_px": [manifest.preprocessing.height, manifest.preprocessing.width],
                "notes": list(manifest.notes),
            },
            "profile": {
                "path": "" if self.enrolled_here else str(self.profile_path),
                "product": self.profile.product,
                "n_references": self.profile.n_references,
                "bank_rows": [len(bank) for bank in self.profile.banks],
                "enrolled_here": self.enrolled_here,
            },
        }


def open_configurations(settings: LatencySettings, folder: Path) -> list[Configuration]:
    """Open every bundle in every precision.

    Parameters
    ----------
    settings : LatencySettings
    folder : Path
        For profiles that are enrolled here.

    Raises
    ------
    CffError
        Whatever opening, loading and enrolling raise.
    """
    first = Profile.load(settings.profile)
    paths = {settings.profile: first}
    paths |= {path: Profile.load(path) for path in settings.further_profiles}
    opened = []
    for number, (bundle, precision, name) in enumerate(_names(settings, first)):
        one = _open(settings, bundle, precision, name, paths)
        if one.profile_path == settings.profile and one.profile is not first:
            one.profile_path = folder / f"{number}.profile.safetensors"
            one.profile.save(one.profile_path)
        opened.append(one)
    return opened


def close_all(configurations: Sequence[Configuration]) -> None:
    """Give back what the backends hold."""
    for configuration in configurations:
        with suppress(Exception):  # the measurement is over; nothing is left to tell
            configuration.backend.close()


def describe_images(sources: Sequence[ImageSource]) -> list[dict[str, Any]]:
    """Return name, width and height of every image."""
    facts = []
    for source in sources:
        height, width = source.read().shape[:2]
        facts.append({"source": source.name, "width_px": width, "height_px": height})
    return facts


def _names(settings: LatencySettings, profile: Profile) -> list[tuple[Path, str, str]]:
    """Return bundle, precision and a name of its own for everything that takes turns."""
    bundles = [settings.bundle, *settings.compare_with]
    wanted: list[tuple[Path, str]] = []
    for bundle in bundles:
        precisions = list(settings.precisions) or [_own_precision(bundle, profile)]
        wanted += [(bundle, precision) for precision in precisions]
    named: list[tuple[Path, str, str]] = []
    for bundle, precision in wanted:
        name = precision if len(bundles) == 1 else f"{_label(bundle)}, {precision}"
        taken = [other for _, _, other in named]
        if name in taken:
            name = f"{name}, {1 + sum(other.startswith(name) for other in taken)}"
        named.append((bundle, precision, name))
    return named


def _label(bundle: Path) -> str:
    """Return the last word of a path that says something: most bundles are called `bundle`."""
    path = bundle.resolve()
    return path.name if path.name != "bundle" or not path.parent.name else path.parent.name


def _own_precision(bundle: Path, profile: Profile) -> str:
    """Return the precision that a profile was enrolled with, or the bundle's default."""
    manifest = Bundle.open(bundle).manifest
    if profile.bundle_id == manifest.id:
        return manifest.precision
    with suppress(Exception):  # of another bundle: it is enrolled anew
        return profile.precision_in(manifest)
    return manifest.precision


def _open(
    settings: LatencySettings,
    path: Path,
    precision: str,
    name: str,
    profiles: Mapping[Path, Profile],
) -> Configuration:
    bundle = Bundle.open(path, precision)
    backend = TimedBackend(open_backend(settings.backend, bundle, settings.options))
    inspector = Inspector(bundle, backend)
    for profile_path, profile in profiles.items():
        if profile.bundle_id == bundle.manifest.id:
            return Configuration(
                name, path, precision, inspector, profile, profile_path, False, backend
            )
    first = profiles[settings.profile]
    if path == settings.bundle and not settings.precisions:
        first.require_bundle(bundle.manifest)  # which says what differs
    if not len(first.reference_images):
        raise UsageError(
            f"`profile` must hold its reference images to be enrolled for `{name}`, it has none"
        )
    known = bundle.manifest.condition.names
    text_name = first.condition_name if first.condition_name in known else None
    enrolled = inspector.enroll(list(first.reference_images), first.product, text_name)
    return Configuration(
        name, path, precision, inspector, enrolled, settings.profile, True, backend
    )
