"""Tables of accuracy: the real parts and the precisions."""

from typing import Any

from cff_bench.document_tables.formats import count_blocks, markdown_table, or_nothing, signed


def real_parts(report: dict[str, Any]) -> str:
    """Accuracy on the real parts, one row per head."""
    metrics = {
        "image AUROC": ("image_auroc", ".3f"),
        "pixel AUROC": ("pixel_auroc", ".3f"),
        "pixel AP": ("pixel_ap", ".3f"),
        "false rejects": ("false_reject_rate", ".1%"),
        "false accepts": ("false_accept_rate", ".1%"),
    }
    rows = [
        [head, *(format(values[key], spec) for key, spec in metrics.values())]
        for head, values in report["means"].items()
    ]
    products = sorted({entry["product"] for entry in report["products"]})
    n_images = sum(entry["n_test_images"] for entry in report["products"]) // len(rows)
    return (
        f"**Accuracy.** Means over {len(products)} products of MVTec AD ({', '.join(products)}; "
        f"{n_images} test images of a small subset, not comparable with published figures), "
        f"K = {report['k']}, `efficientnet-lite0`, adapters trained on "
        f"{', '.join(report['trained_on'])} (`make real-parts`, `real_parts.json`). `raw` is the "
        "backbone alone, its distances summed as published; `none` adds projectors and the log "
        "distance, `affine` calibrators as well (the default). More rows, draws and intervals: "
        "[docs/experiment.md](docs/experiment.md).\n\n" + markdown_table(["head", *metrics], rows)
    )


def precision_drift(report: dict[str, Any]) -> str:
    """What a precision changes on real images."""
    data, bundle = report["data"], report["bundle"]
    rows = []
    for entry in report["precisions"]:
        minus = entry["minus_fp32"]
        is_fp32 = entry is report["precisions"][0]
        rows.append(
            [
                entry["precision"],
                f"{entry['means']['image_auroc']:.4f}",
                "" if is_fp32 else signed(minus["image_auroc_points"]),
                f"{entry['means']['pixel_auroc']:.4f}",
                "" if is_fp32 else signed(minus["pixel_auroc_points"]),
                "" if is_fp32 else str(len(entry["flips"])),
                "" if is_fp32 else or_nothing(entry["score_shift"], ".1%"),
                "" if is_fp32 else count_blocks(entry["kept_fp32"]),
            ]
        )
    header = ["precision", "image AUROC", "points", "pixel AUROC", "points"]
    header += ["verdict flips", "largest score shift", "kept in fp32"]
    emulated = [e["precision"] for e in report["precisions"] if e["computed"].startswith("emul")]
    how = f" {' and '.join(emulated)} emulated on a CPU, roundings included." if emulated else ""
    points = [product["points_per_pair"] for product in report["precisions"][0]["products"]]
    return (
        f"**Precision, drift.** Means over {len(data['products'])} products of {data['name']} "
        f"({data['n_test_images']} test images), K = {report['settings']['shots']}, "
        f"`{bundle['backbone']['name']}` at {bundle['input_px'][0]} px; every precision enrols and "
        "inspects by itself (`cff-bench precision drift`, `precision_drift.json`). Points are "
        f"100 x AUROC minus that of fp32; one pair of images that changes places is worth "
        f"{min(points) / len(points):.2f} to {max(points) / len(points):.2f} of them. A score's "
        f"shift is a share of the way from a good part to the threshold.{how}\n\n"
        + markdown_table(header, rows)
    )
