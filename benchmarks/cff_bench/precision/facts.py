"""What both reports say of a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cff_runtime.manifest import Manifest


def bundle_facts(path: Path | None, manifest: Manifest) -> dict[str, Any]:
    """Return a bundle's facts; no path for one that is temporary."""
    backbone = ("name", "weights", "activation", "weights_sha256")
    return {
        "path": None if path is None else str(path),
        "id": manifest.id,
        "backbone": {name: manifest.backbone[name] for name in backbone},
        "calibrator": manifest.head.get("calibrator"),
        "trained_on": list(manifest.head.get("trained_on", ())),
        "input_px": [manifest.preprocessing.height, manifest.preprocessing.width],
        "notes": list(manifest.notes),
        "tools": dict(manifest.tools),
    }


def variant_facts(manifest: Manifest, precision: str) -> dict[str, Any]:
    """Return the graph of a precision, the blocks it keeps in fp32 and how it was built."""
    variant = manifest.variants.get(precision)
    return {
        "graph": manifest.view(precision).encoder,
        "kept_fp32": [] if variant is None else list(variant.kept_fp32),
        "facts": {} if variant is None else dict(variant.facts),
    }


def bundle_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return a bundle's facts as lines of text, its notes last."""
    backbone = facts["backbone"]
    return [
        f"bundle   {facts['id'][:12]}, {backbone['name']}, {backbone['weights']} weights, "
        f"{facts['input_px'][0]} px",
        *(f"note     {note}" for note in facts["notes"]),
    ]
