"""Published figures, in per cent as printed, each with its source (`published.json`)."""

import functools
import importlib.resources
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PublishedRow:
    """One method at one K, mean over the products of a data set.

    Attributes
    ----------
    table : str
        What the source's table is about, such as ``transfer`` or ``lambda_a ablation``.
    source : str
        Publication, and where its figures were read if not there.
    dataset : {'mvtec', 'visa'}
        Data set that is scored.
    trained_on : {'mvtec', 'visa'} or None
        Data set of the adapters; None for methods without adapters.
    method : str
    k : int
        Reference images; 0 is zero-shot.
    percent : mapping of str to float
        Per metric name of `cff_edge.metrics`, as printed.
    deviation : mapping of str to float
        Standard deviation over seeds in percentage points, where the source prints one.
    """

    table: str
    source: str
    dataset: str
    trained_on: str | None
    method: str
    k: int
    percent: Mapping[str, float]
    deviation: Mapping[str, float]


@functools.cache
def published_rows() -> tuple[PublishedRow, ...]:
    """Return every published row, in the order of `published.json`."""
    facts = _facts()
    return tuple(
        _row(table, row, facts["sources"]) for table in facts["tables"] for row in table["rows"]
    )


def complete_dataset(products: Collection[str], n_images: int) -> str | None:
    """Name the data set that published rows speak of, if these are all of its test images.

    Parameters
    ----------
    products : collection of str
        Products that were scored.
    n_images : int
        Test images of all of them; a subset of every product's images is another data set.

    Returns
    -------
    {'mvtec', 'visa'} or None
    """
    for name, facts in _facts()["datasets"].items():
        if set(products) == set(facts["products"]) and n_images == facts["test_images"]:
            return str(name)
    return None


def dataset_title(name: str) -> str:
    """Return the printed name of ``mvtec`` or ``visa``."""
    return str(_facts()["datasets"][name]["title"])


@functools.cache
def _facts() -> dict[str, Any]:
    text = importlib.resources.files(__package__).joinpath("published.json").read_text("utf-8")
    facts: dict[str, Any] = json.loads(text)
    return facts


def _row(
    table: Mapping[str, Any], row: Mapping[str, Any], sources: Mapping[str, str]
) -> PublishedRow:
    columns = table["columns"]
    deviations = row.get("deviation", [None] * len(columns))
    return PublishedRow(
        table=table["name"],
        source=sources[table["source"]],
        dataset=table["dataset"],
        trained_on=table["trained_on"],
        method=row["method"],
        k=row["k"],
        percent=dict(zip(columns, row["percent"], strict=True)),
        deviation={
            name: value
            for name, value in zip(columns, deviations, strict=True)
            if value is not None
        },
    )
