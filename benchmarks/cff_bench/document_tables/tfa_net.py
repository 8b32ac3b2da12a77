"""Tables of TFA-Net beside CFF in docs/experiment.md."""

from typing import Any

from cff_bench.document_tables.formats import markdown_table, or_dash, percent

_METRICS = {
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pro": "PRO",
    "image_auroc": "image AUROC",
}


def tfa_net(report: dict[str, Any]) -> str:
    """What training took, then every row of every product."""
    training, accuracy = report["facts"]["training"], report["facts"]["accuracy"]
    images = {one["product"]: one for one in accuracy["products"]}
    took = [
        [
            one["product"],
            str(one["n_normals"]),
            f"{one['n_parameters'] / 1e6:.1f}",
            str(one["n_epochs"]),
            or_dash(one["cpu_minutes"], ".1f"),
            str(images[one["product"]]["n_images"]),
            str(images[one["product"]]["n_defective"]),
        ]
        for one in training["products"]
        if one["product"] in images
    ]
    header = ["product", "normals", "M parameters", "epochs", "CPU minutes", "test images"]
    rows = [
        [
            row["product"],
            str(row["k"]),
            f"`{row['method']}`",
            *(_spread(row[metric]) for metric in _METRICS),
            percent(row["pixel_auroc"]["worst"]),
        ]
        for row in accuracy["rows"]
    ]
    columns = ["product", "K", "row", *_METRICS.values(), "worst pixel AUROC"]
    n_draws = max(row["n_draws"] for row in accuracy["rows"])
    labels = {row["method"]: row["label"] for row in accuracy["rows"]}
    words = "; ".join(f"`{name}`: {label}" for name, label in labels.items())
    return (
        f"Training, `{training['products'][0]['backbone']}`, the whole command on "
        f"{training['environment']['cpu_model']} (`{' '.join(training['command'])}`):\n\n"
        + markdown_table([*header, "defective"], took)
        + f"\n\nPer cent, mean over {n_draws} draws of K references from the training images ± "
        "standard deviation, and the worst draw; without a deviation it is a single draw, all of "
        f"the network's normals. {words}.\n\n" + markdown_table(columns, rows)
    )


def tfa_net_latency(report: dict[str, Any]) -> str:
    """One inspection with either, and what they take on disk."""
    latency = report["facts"]["latency"]
    environment, settings = latency["environment"], report["settings"]
    rows = [
        [
            f"`{row['name']}`",
            *(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "images_s")),
            _ratio(row),
            *(f"{row['stages_ms'][stage]:.1f}" for stage in ("encode", "search")),
            *(f"{row[key]:.1f}" for key in ("graph_mb", "profile_mb")),
        ]
        for row in latency["rows"]
    ]
    header = ["", "p50 ms", "p95", "images/s", f"of `{latency['reference']}`", "encode", "search"]
    counts = {row["n"] for row in latency["rows"]}
    notes = "".join(f" {note}." for note in latency["notes"])
    return (
        f"One inspection of {latency['product']}, {latency['rows'][0]['input_px'][0]} px, "
        f"K = {latency['k']}, image in memory, {environment['cpu_model']}, "
        f"{settings['threads']} threads, batch 1, n = {min(counts)}, by turns in one process "
        f"(`{' '.join(latency['command'])}`).{notes}\n\n"
        + markdown_table([*header, "graphs MB", "profile MB"], rows)
    )


def _spread(figure: dict[str, Any]) -> str:
    mean = percent(figure["mean"])
    return mean if figure["std"] is None else f"{mean} ± {percent(figure['std'])}"


def _ratio(row: dict[str, Any]) -> str:
    if row["ratio"] is None:
        return ""
    if row["ratio_low"] is None or row["ratio_low"] == row["ratio_high"]:
        return f"{row['ratio']:.2f}"
    return f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
