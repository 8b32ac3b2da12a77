"""The manifest of a bundle: every fact that the runtime and its user need, as JSON.

The bundle's `id` is a hash over everything that decides a score: the graphs, the preprocessing,
the stages, their distance, and what the encoder takes and gives besides. A profile carries the id
of the bundle that made it.

A bundle may hold its encoder in several precisions. Each is a *variant* with an id of its own, and
`Manifest.view` shows the manifest as that precision sees it. The scorers are fp32 for all.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from cff_runtime.encoder_signature import (
    Condition,
    MapOutput,
    ScoreOutput,
    check_signature,
    parse_condition,
    parse_map,
    parse_score,
)
from cff_runtime.errors import BundleError, UsageError
from cff_runtime.finishing import DISTANCES
from cff_runtime.jsonfields import parse_object, take
from cff_runtime.preprocessing import Preprocessing
from cff_runtime.storage import sha256_bytes

SCHEMA_VERSION = 4
MANIFEST_NAME = "manifest.json"
DEFAULT_PRECISION = "fp32"
MAX_STAGES = 16
MAX_TOKENS = 1 << 16
MAX_WIDTH = 1 << 14
MAX_FILES = 4096
_SHA256 = re.compile("[0-9a-f]{64}")
# control characters, Windows' drives, streams and separators, and its names that end in nothing
_NO_FILE_NAME = re.compile(r"[\x00-\x1f\x7f:\\]|[. ](/|$)")


@dataclass(frozen=True)
class FileEntry:
    """Hash and size of one file of the bundle."""

    sha256: str
    n_bytes: int


@dataclass(frozen=True)
class Stage:
    """One stage of exported features: C_s values on a grid of h x w tokens."""

    tap: str
    grid: tuple[int, int]
    width: int

    @property
    def n_tokens(self) -> int:
        """N_s."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Variant:
    """The encoder in another precision than fp32.

    Attributes
    ----------
    encoder : str
        Its graph; the name says what was really built, such as ``encoder.fp16-mixed.onnx``.
    id : str
        Of the bundle as this precision sees it.
    kept_fp32 : tuple of str
        Blocks that were left in fp32 to pass the parity gate.
    facts, parity : mapping
        How it was built, and its report of the gate; for people.
    """

    encoder: str
    id: str
    kept_fp32: tuple[str, ...]
    facts: Mapping[str, Any]
    parity: Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """Contents of ``manifest.json``; see the attributes of the parts.

    `scorers` has an entry per stage, or none where nothing is searched in memory banks.
    `distance` says how the stages' distances are summed, see `cff_runtime.finishing`; `condition`,
    `map` and `score` what the encoder takes and gives besides, see
    `cff_runtime.encoder_signature`. `variants` are the further precisions, by name.
    `backbone`, `head`, `parity`, `passes`, `tools`, `licences` and `notes` are for people and
    reports; no score depends on them.
    """

    id: str
    precision: str
    encoder: str
    scorers: tuple[str, ...]
    preprocessing: Preprocessing
    stages: tuple[Stage, ...]
    distance: str
    condition: Condition
    map: MapOutput
    score: ScoreOutput
    golden: str
    files: Mapping[str, FileEntry]
    backbone: Mapping[str, Any]
    head: Mapping[str, Any]
    parity: Mapping[str, Any]
    passes: tuple[Mapping[str, Any], ...]
    tools: Mapping[str, str]
    licences: Mapping[str, str]
    notes: tuple[str, ...]
    created: str
    variants: Mapping[str, Variant] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def searched(self) -> tuple[Stage, ...]:
        """The stages with a scorer and a memory bank: all, or none."""
        return self.stages[: len(self.scorers)]

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of the encoder, fp32 first."""
        return (DEFAULT_PRECISION, *self.variants)

    @property
    def trained_images(self) -> frozenset[str]:
        """Hashes of the pixels of images that the detector was trained on and that it inspects."""
        listed = self.head.get("trained_images", [])
        return frozenset(map(str, listed)) if isinstance(listed, list) else frozenset()

    def view(self, precision: str) -> "Manifest":
        """Return the manifest as `precision` sees it: its encoder, id and parity report.

        Raises
        ------
        UsageError
            If the bundle was exported without this precision.
        """
        if precision == self.precision:
            return self
        if precision not in self.variants:
            raise UsageError(
                f"`precision` must be one of this bundle's, {', '.join(self.precisions)}, got "
                f"{precision!r}; add it with `cff-export BUNDLE --precision {precision}`"
            )
        variant = self.variants[precision]
        return replace(
            self,
            precision=precision,
            encoder=variant.encoder,
            id=variant.id,
            parity=variant.parity,
        )

    def compute_id(self) -> str:
        """Return the hash over everything that decides a score."""
        graphs = (self.encoder, *self.scorers)
        # the weights of a graph above protobuf's limit stand beside it
        data = [f"{name}.data" for name in graphs if f"{name}.data" in self.files]
        core = {
            "schema_version": self.schema_version,
            "graphs": [self.files[name].sha256 for name in (*graphs, *data)],
            "preprocessing": self.preprocessing.to_dict(),
            "stages": [asdict(stage) for stage in self.stages],
            "distance": self.distance,
            "condition": self.condition.core(),
            "map": asdict(self.map),
            "score": asdict(self.score),
        }
        return sha256_bytes(json.dumps(core, sort_keys=True).encode())

    def to_json(self) -> str:
        """Return the manifest as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"


def parse_manifest(text: str) -> Manifest:
    """Read a manifest and check every field's type and range.

    Raises
    ------
    BundleError
        If anything is missing, of a wrong type, out of range, or if the id does not match.
    """
    fields = parse_object(text, f"`{MANIFEST_NAME}`", BundleError)
    version = take(fields, "schema_version", int, BundleError)
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"`schema_version` must be {SCHEMA_VERSION}, got {version}; "
            "export the bundle again with this version, or update the runtime"
        )
    manifest = _parse_fields(fields)
    _check_references(manifest)
    if manifest.id != manifest.compute_id():
        raise BundleError(
            "`id` must be the hash of the graphs and settings, but the manifest was changed "
            "after the export; export the bundle again"
        )
    for precision in manifest.variants:
        view = manifest.view(precision)
        if view.id != view.compute_id():
            raise BundleError(
                f"`variants.{precision}.id` must be the hash of its graphs and settings; "
                "export the bundle again"
            )
    return manifest


def _parse_fields(fields: Mapping[str, Any]) -> Manifest:
    def text_field(name: str) -> str:
        return take(fields, name, str, BundleError)

    def facts(name: str) -> Mapping[str, Any]:
        return take(fields, name, dict, BundleError)

    return Manifest(
        id=text_field("id"),
        precision=text_field("precision"),
        encoder=text_field("encoder"),
        scorers=_strings(fields, "scorers"),
        preprocessing=Preprocessing.from_dict(facts("preprocessing")),
        stages=tuple(_parse_stage(entry) for entry in take(fields, "stages", list, BundleError)),
        distance=text_field("distance"),
        condition=parse_condition(facts("condition")),
        map=parse_map(facts("map")),
        score=parse_score(facts("score")),
        golden=text_field("golden"),
        files=_parse_files(facts("files")),
        backbone=facts("backbone"),
        head=facts("head"),
        parity=facts("parity"),
        passes=tuple(take(fields, "passes", list, BundleError)),
        tools=facts("tools"),
        licences=facts("licences"),
        notes=_strings(fields, "notes"),
        created=text_field("created"),
        variants={name: _parse_variant(name, entry) for name, entry in facts("variants").items()},
    )


def _parse_stage(entry: Any) -> Stage:
    if not isinstance(entry, dict):
        raise BundleError(f"every entry of `stages` must be an object, got {entry!r:.80}")
    grid = take(entry, "grid", list, BundleError)
    width = take(entry, "width", int, BundleError)
    sides_ok = len(grid) == 2 and all(type(side) is int and side > 0 for side in grid)
    if not sides_ok or grid[0] * grid[1] > MAX_TOKENS:
        raise BundleError(f"`stages.grid` must be two positive sides, got {grid!r:.80}")
    if not 0 < width <= MAX_WIDTH:
        raise BundleError(f"`stages.width` must be 1 to {MAX_WIDTH}, got {width}")
    return Stage(take(entry, "tap", str, BundleError), (grid[0], grid[1]), width)


def _parse_variant(name: str, entry: Any) -> Variant:
    if not isinstance(entry, dict) or name == DEFAULT_PRECISION:
        raise BundleError(f"`variants.{name}` must be an object, of another precision than fp32")
    return Variant(
        encoder=take(entry, "encoder", str, BundleError),
        id=take(entry, "id", str, BundleError),
        kept_fp32=_strings(entry, "kept_fp32"),
        facts=take(entry, "facts", dict, BundleError),
        parity=take(entry, "parity", dict, BundleError),
    )


def _parse_files(entries: Mapping[str, Any]) -> dict[str, FileEntry]:
    if len(entries) > MAX_FILES:
        raise BundleError(f"`files` must name at most {MAX_FILES} files, got {len(entries)}")
    by_letters: dict[str, str] = {}
    for name in entries:  # one file on a disk that takes them for the same, two elsewhere
        other = by_letters.setdefault(name.casefold(), name)
        if other != name:
            raise BundleError(
                f"`files` must differ in more than upper and lower case, got {other!r:.40} and "
                f"{name!r:.40}"
            )
    return {name: _parse_file(name, entry) for name, entry in entries.items()}


def _parse_file(name: str, entry: Any) -> FileEntry:
    if not isinstance(entry, dict):
        raise BundleError(f"`files.{name}` must be an object, got {entry!r:.80}")
    path = PurePosixPath(name)
    # a name that is not written as the path would be is a second name of another file
    if (
        path.is_absolute()
        or ".." in path.parts
        or str(path) != name
        or name == "."
        or _NO_FILE_NAME.search(name)
    ):
        raise BundleError(f"`files` must name files inside the bundle, got {name!r:.80}")
    sha256 = take(entry, "sha256", str, BundleError)
    if not _SHA256.fullmatch(sha256):
        raise BundleError(f"`sha256` of `{name:.80}` must be 64 hex digits, got {sha256!r:.80}")
    return FileEntry(sha256=sha256, n_bytes=take(entry, "n_bytes", int, BundleError))


def _strings(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = take(fields, name, list, BundleError)
    if not all(isinstance(value, str) for value in values):
        raise BundleError(f"`{name}` must be a list of strings, got {values!r:.80}")
    return tuple(values)


def _check_references(manifest: Manifest) -> None:
    if not 1 <= len(manifest.stages) <= MAX_STAGES:
        raise BundleError(f"`stages` must have 1 to {MAX_STAGES} entries")
    if len(manifest.scorers) not in (0, len(manifest.stages)):
        raise BundleError(
            f"`scorers` must have one entry per stage ({len(manifest.stages)}) or none, "
            f"got {len(manifest.scorers)}"
        )
    sizes = [(stage.n_tokens, stage.width) for stage in manifest.stages]
    check_signature(manifest.condition, manifest.map, manifest.score, sizes)
    if manifest.distance not in DISTANCES:
        raise BundleError(
            f"`distance` must be one of {', '.join(DISTANCES)}, got {manifest.distance!r:.80}"
        )
    if manifest.precision != DEFAULT_PRECISION:
        raise BundleError(
            f"`precision` must be {DEFAULT_PRECISION}, others are `variants`, "
            f"got {manifest.precision!r:.80}"
        )
    encoders = (manifest.encoder, *(variant.encoder for variant in manifest.variants.values()))
    words = () if manifest.condition.file is None else (manifest.condition.file,)
    for name in (*encoders, *manifest.scorers, *words, manifest.golden):
        if name not in manifest.files:
            raise BundleError(f"`files` must list every file of the bundle, {name!r:.80} is not")
