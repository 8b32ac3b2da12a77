"""Reading typed fields out of JSON that a stranger may have written."""

from collections.abc import Mapping
from typing import Any, TypeVar

from cff_runtime.errors import CffError

T = TypeVar("T")


def take(fields: Mapping[str, Any], name: str, kind: type[T], error: type[CffError]) -> T:
    """Return ``fields[name]`` if it is a `kind`; an int passes as a float, a bool not as an int.

    Raises
    ------
    CffError
        Of the class `error`, if the field is missing or of another type.
    """
    if name not in fields:
        raise error(f"field `{name}` must be present")
    value = fields[name]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise error(f"field `{name}` must be of type {kind.__name__}, got {value!r:.80}")
    return value
