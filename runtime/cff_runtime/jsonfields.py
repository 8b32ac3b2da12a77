"""Reading typed fields out of JSON that a stranger may have written."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from cff_runtime.errors import CffError

T = TypeVar("T")
_MAX_INT = 1 << 63  # no count, size or version is near it, and a message can name what is below


def parse_object(text: str, name: str, error: type[CffError]) -> dict[str, Any]:
    """Return the JSON object that `text` holds; `name` says in errors what it is.

    Raises
    ------
    CffError
        Of the class `error`, if it is not JSON, nested too deeply, no object, or if any object in
        it has a key twice: two readers may take different ones.
    """
    try:
        fields = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as cause:
        raise error(f"{name} must be JSON: {cause}") from cause
    if not isinstance(fields, dict):
        raise error(f"{name} must hold a JSON object, got {type(fields).__name__}")
    return fields


def take(fields: Mapping[str, Any], name: str, kind: type[T], error: type[CffError]) -> T:
    """Return ``fields[name]`` if it is a `kind`; an int passes as a float, a bool not as an int.

    Raises
    ------
    CffError
        Of the class `error`, if the field is missing, of another type, or not a finite number.
    """
    if name not in fields:
        raise error(f"field `{name}` must be present")
    value = fields[name]
    if kind is float:
        return cast(T, _finite(value, f"field `{name}`", error))
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise error(f"field `{name}` must be of type {kind.__name__}, got {value!r:.80}")
    if kind is int and not -_MAX_INT <= cast(int, value) < _MAX_INT:
        raise error(f"field `{name}` must be an integer of 64 bits, got one beyond")
    return value


def take_floats(fields: Mapping[str, Any], name: str, error: type[CffError]) -> tuple[float, ...]:
    """Return the list of finite numbers ``fields[name]``; see `take`."""
    values = take(fields, name, list, error)
    return tuple(_finite(value, f"every entry of `{name}`", error) for value in values)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {twice!r:.40} must stand once in its object, it stands twice")
    return fields


def _finite(value: Any, what: str, error: type[CffError]) -> float:
    try:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an int beyond the range of floats
        pass
    raise error(f"{what} must be a finite number, got {value!r:.80}")
