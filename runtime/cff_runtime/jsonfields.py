"""Reading typed fields out of JSON that a stranger may have written."""

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from cff_runtime.errors import CffError

T = TypeVar("T")


def parse_object(text: str, name: str, error: type[CffError]) -> dict[str, Any]:
    """Return the JSON object that `text` holds; `name` says in errors what it is.

    Raises
    ------
    CffError
        Of the class `error`, if it is not JSON, nested too deeply, or no object.
    """
    try:
        fields = json.loads(text)
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
    return value


def take_floats(fields: Mapping[str, Any], name: str, error: type[CffError]) -> tuple[float, ...]:
    """Return the list of finite numbers ``fields[name]``; see `take`."""
    values = take(fields, name, list, error)
    return tuple(_finite(value, f"every entry of `{name}`", error) for value in values)


def _finite(value: Any, what: str, error: type[CffError]) -> float:
    try:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an int beyond the range of floats
        pass
    raise error(f"{what} must be a finite number, got {value!r:.80}")
