"""Tables of docs/experiment.md: rows, test sets, differences."""

from typing import Any

from cff_bench.document_tables.formats import gain, markdown_table, percent, spread

_METRICS = {
    "pixel_ap": "pixel AP",
    "pixel_auroc": "pixel AUROC",
    "pro": "PRO",
    "image_auroc": "image AUROC",
}
_COMPARED = ("pixel_ap", "pixel_auroc", "image_auroc")


def experiment_main(report: dict[str, Any]) -> str:
    """Every row on the main set: pixel AP per K, all metrics and the gain at the largest K."""
    shots = [str(k) for k in report["protocol"]["shots"]]
    last = shots[-1]
    rows = []
    for row in report["main"]:
        figures = row["k"]
        rows.append(
            [
                f"`{row['name']}`",
                *(spread(figures[k]["pixel_ap"]) for k in shots),
                *(percent(figures[last][m]["mean"]) for m in list(_METRICS)[1:]),
                gain(row["minus"].get("raw", ()), int(last), "pixel_ap"),
            ]
        )
    header = [
        "row",
        *(f"pixel AP, K = {k}" for k in shots),
        *(f"{label}, K = {last}" for label in list(_METRICS.values())[1:]),
        f"pixel AP minus `raw`, K = {last}",
    ]
    return markdown_table(header, rows)


def experiment_labels(report: dict[str, Any]) -> str:
    """What every row is, and the settings that differ from the default."""
    rows = [
        [
            f"`{name}`",
            row["label"],
            ", ".join(f"`{setting}`" for setting in row["training"])
            or (f"run of `{row['run']}`" if row["run"] else "none"),
            ", ".join(f"`{setting}`" for setting in row["evaluation"]),
        ]
        for name, row in report["protocol"]["rows"].items()
    ]
    return markdown_table(["row", "what it is", "trained with", "evaluated with"], rows)


def experiment_sets(report: dict[str, Any]) -> str:
    """The main rows on every test set at the largest K."""
    k = str(report["protocol"]["shots"][-1])
    rows = []
    for name, entries in report["test"].items():
        about = report["protocol"]["test_sets"][name]
        for entry in entries:
            figures = entry["k"][k]
            rows.append(
                [
                    f"{name} ({len(about['products'])} products, {about['n_images']} images)",
                    f"`{entry['name']}`",
                    *(spread(figures[metric]) for metric in _METRICS),
                ]
            )
    return markdown_table(["test set", "row", *_METRICS.values()], rows)


def experiment_overall(report: dict[str, Any]) -> str:
    """Paired differences to raw features over all test products."""
    rows = [
        [f"`{name}`", *(gain(differences, None, metric) for metric in _COMPARED)]
        for name, differences in report["overall"].items()
    ]
    return markdown_table(["row", *(f"{_METRICS[m]} minus `raw`" for m in _COMPARED)], rows)


def experiment_development(report: dict[str, Any]) -> str:
    """Pixel AP on the development sets, by row and text weight."""
    sets = list(report["development"])
    methods = sorted({m for found in report["development"].values() for m in found})
    rows = []
    for method in sorted(methods, key=lambda name: (not name.startswith("raw"), name)):
        found = [report["development"][name][method] for name in sets]
        means = [sum(f[m] for f in found) / len(found) for m in _COMPARED]
        rows.append(
            [
                f"`{method}`",
                *(percent(f["pixel_ap"]) for f in found),
                *(percent(mean) for mean in means),
            ]
        )
    header = ["row", *sets, *(f"mean {_METRICS[m]}" for m in _COMPARED)]
    return markdown_table(header, rows)


def experiment_references(report: dict[str, Any]) -> str:
    """Alignment on the K references beside alignment on the batch."""
    found = report["on_references"]
    rows = [
        [
            _METRICS[metric],
            percent(found["on_batch"][metric]),
            percent(found["on_references"][metric]),
            gain(found["minus"], None, metric),
        ]
        for metric in _COMPARED
    ]
    return markdown_table(["metric", "on the batch", "on the references", "difference"], rows)
