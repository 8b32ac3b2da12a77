"""What a profile is, and what differs between two, in words and as JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cff_runtime.profile import Profile
from cff_runtime.references import Reference


def describe_profile(profile: Profile) -> dict[str, Any]:
    """Return everything but the tensors, ready for JSON."""
    return {
        "product": profile.product,
        "bundle_id": profile.bundle_id,
        "origin": profile.origin.to_dict(),
        "n_references": profile.n_references,
        "references": [asdict(reference) for reference in profile.references],
        "bank_rows": [len(bank) for bank in profile.banks],
        "bank_mb": round(sum(bank.nbytes for bank in profile.banks) / 1e6, 2),
        "compression": profile.compression,
        "condition_name": profile.condition_name,
        "threshold": asdict(profile.threshold),
        "settings": profile.settings,
        "display_range": profile.display_range,
        "peak_scale": profile.peak_scale,
        "product_limit": profile.product_limit,
        "history": profile.history,
    }


def compare_profiles(old: Profile, new: Profile) -> dict[str, Any]:
    """Return what differs between two profiles, ready for JSON.

    References are the same if their pixels are; their scores are those of being left out.
    """
    return {
        "product": _pair(old.product, new.product),
        "bundle_id": _pair(old.bundle_id, new.bundle_id),
        "precision": _pair(old.origin.precision, new.origin.precision),
        "n_references": _pair(old.n_references, new.n_references),
        "references_added": _missing_in(old.references, new.references),
        "references_removed": _missing_in(new.references, old.references),
        "bank_rows": _pair([len(b) for b in old.banks], [len(b) for b in new.banks]),
        "condition_name": _pair(old.condition_name, new.condition_name),
        "threshold": _pair(old.threshold.value, new.threshold.value),
        "review_threshold": _pair(old.threshold.review, new.threshold.review),
        "pixel_threshold": _pair(old.threshold.pixel_value, new.threshold.pixel_value),
        "method": _pair(old.threshold.method, new.threshold.method),
        "expected_false_rejects": _pair(
            old.threshold.expected_false_rejects, new.threshold.expected_false_rejects
        ),
        "product_limit": _pair(old.product_limit, new.product_limit),
        "reference_scores": _reference_scores(old, new),
    }


def comparison_text(comparison: Mapping[str, Any]) -> str:
    """Return a comparison in lines; what is the same is left out."""
    lines = []
    for sign, name in (("+", "references_added"), ("-", "references_removed")):
        lines += [f"{sign} reference {reference}" for reference in comparison[name]]
    for name, pair in comparison.items():
        if isinstance(pair, Mapping) and pair["old"] != pair["new"]:
            lines.append(f"{name.replace('_', ' '):24}{_text(pair['old'])} -> {_text(pair['new'])}")
    for score in comparison["reference_scores"]:
        if score["old"] != score["new"]:
            place = f"score of {score['name']}"
            lines.append(f"{place:24}{_text(score['old'])} -> {_text(score['new'])}")
    return "\n".join(lines) or "no difference"


def _missing_in(some: Sequence[Reference], others: Sequence[Reference]) -> list[str]:
    """Return the names of `others` that are not among `some`; twins count one by one."""
    left = Counter(reference.sha256 for reference in some)
    missing = []
    for reference in others:
        left[reference.sha256] -= 1
        if left[reference.sha256] < 0:
            missing.append(reference.name)
    return missing


def _pair(old: Any, new: Any) -> dict[str, Any]:
    return {"old": old, "new": new}


def _reference_scores(old: Profile, new: Profile) -> list[dict[str, Any]]:
    """Return the left-out scores of all references of both, None where there is none."""
    sides = []
    for profile in (old, new):
        scores = profile.threshold.reference_scores or (None,) * profile.n_references
        pairs = zip(profile.references, scores, strict=False)
        side: dict[str, tuple[str, float | None]] = {}
        for reference, score in pairs:
            side.setdefault(reference.sha256, (reference.name, score))
        sides.append(side)
    nothing = (None, None)
    return [
        {
            "name": {**sides[0], **sides[1]}[key][0],
            **_pair(sides[0].get(key, nothing)[1], sides[1].get(key, nothing)[1]),
        }
        for key in dict.fromkeys([*sides[0], *sides[1]])
    ]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "none" if value is None else str(value)
