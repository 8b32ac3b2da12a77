"""What is known of stored parts: from a file, or from the names of their folders."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from cff_runtime.errors import UsageError
from cff_runtime.imaging import IMAGE_SUFFIXES

GOOD = "good"
_MASKS = "ground_truth"  # MVTec's folder of masks, which are no parts


def find_parts(paths: Sequence[Path]) -> list[Path]:
    """Expand files and folders to image files; folders are searched to any depth, sorted.

    Hidden entries and what lies below a folder ``ground_truth`` are left out.

    Raises
    ------
    UsageError
        If a path does not exist or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise UsageError(f"`{path}` must be an existing image or folder; check the path")
        inside = [entry for entry in sorted(path.rglob("*")) if _is_part(entry.relative_to(path))]
        inside = [entry for entry in inside if entry.is_file()]
        if not inside:
            raise UsageError(
                f"folder `{path}` must hold at least one image ({', '.join(IMAGE_SUFFIXES)})"
            )
        found += inside
    return list(dict.fromkeys(found))


def _is_part(path: Path) -> bool:
    hidden = any(name.startswith(".") for name in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and _MASKS not in path.parts


def is_good_by_folder(path: Path) -> bool | None:
    """Return whether a part is good: in a folder ``good`` it is, in one beside it it is not.

    None where its folder has no neighbour ``good``: a folder may as well be named by date.
    """
    folder = path.resolve().parent
    if folder.name == GOOD:
        return True
    return False if (folder.parent / GOOD).is_dir() else None


class KnownParts:
    """Which parts are known to be good or defective.

    Parameters
    ----------
    listed : mapping of str to bool, optional
        Path or file name to whether the part is good; without it, folders decide.
    """

    def __init__(self, listed: Mapping[str, bool] | None = None) -> None:
        self._listed = listed

    @classmethod
    def read(cls, path: Path) -> "KnownParts":
        """Read a CSV file of lines ``image,good`` or ``image,NAME OF A DEFECT``.

        An image is named by its path, or its file name where that is enough. A first line
        ``image,known`` and empty lines are passed over.

        Raises
        ------
        UsageError
            If the file cannot be read or a line has not two fields.
        """
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = [row for row in csv.reader(file) if any(field.strip() for field in row)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"`--known` must be a readable CSV file: {error}") from error
        listed: dict[str, bool] = {}
        for row in rows:
            fields = [field.strip() for field in row]
            if len(fields) != 2 or not all(fields):
                raise UsageError(
                    f"every line of `{path}` must be `image,good` or `image,defect`, "
                    f"got {','.join(row)!r:.80}"
                )
            if fields != ["image", "known"]:
                listed[fields[0]] = fields[1].lower() == GOOD
        if not listed:
            raise UsageError(f"`{path}` must name at least one part, got none")
        return cls(listed)

    def is_good(self, path: Path) -> bool | None:
        """Return whether a part is good, None if nobody said."""
        if self._listed is None:
            return is_good_by_folder(path)
        tail = [str(path), str(path.resolve())]
        tail += ["/".join(path.parts[start:]) for start in range(len(path.parts))]
        return next((self._listed[name] for name in tail if name in self._listed), None)
