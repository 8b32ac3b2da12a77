"""TFA-Net's tables of docs/experiment.md: digits from reports written by hand."""

from typing import Any

from cff_bench.document_tables.tfa_net import tfa_net, tfa_net_latency
from cff_bench.report.document import Report

ENVIRONMENT = {"cpu_model": "A CPU"}
METRICS = ("pixel_auroc", "pixel_ap", "pro", "image_auroc")


def row(method: str, k: int, mean: float, std: float | None = 0.0123) -> dict[str, Any]:
    """Return a row whose metrics are `mean` and a little more from one to the next."""
    figures = {
        name: {"mean": mean + 0.01 * index, "std": std, "worst": mean - 0.1}
        for index, name in enumerate(METRICS)
    }
    return {
        "product": "ring",
        "k": k,
        "method": method,
        "label": f"what {method} is",
        "n_draws": 5,
        **figures,
    }


def report() -> dict[str, Any]:
    where = {"environment": ENVIRONMENT, "command": ["cff-bench", "tfa-net", "--check"]}
    training = {
        "products": [
            {
                "product": "ring",
                "n_normals": 30,
                "n_parameters": 3_140_000,
                "n_epochs": 60,
                "cpu_minutes": 4.04,
                "backbone": "lite0",
            }
        ],
        **where,
    }
    accuracy = {
        "products": [{"product": "ring", "n_images": 39, "n_defective": 17}],
        "rows": [row("cff", 1, 0.9), row("tfa-net", 1, 0.8, None)],
        **where,
    }
    times = {"p50_ms": 10.04, "p95_ms": 12.06, "images_s": 99.6, "n": 100}
    sizes = {"graph_mb": 15.26, "profile_mb": 2.64, "input_px": [256, 256]}
    latency = {
        "product": "ring",
        "k": 4,
        "reference": "cff fp32",
        "notes": ["int8 is not timed"],
        "rows": [
            {
                "name": "cff fp32",
                **times,
                **sizes,
                "stages_ms": {"encode": 6.04, "search": 2.0},
                "ratio": 1.0,
                "ratio_low": 1.0,
                "ratio_high": 1.0,
            },
            {
                "name": "tfa-net fp32",
                **times,
                **sizes,
                "stages_ms": {"encode": 9.0, "search": 0.001},
                "ratio": 1.404,
                "ratio_low": 1.381,
                "ratio_high": 1.436,
            },
        ],
        **where,
    }
    facts = {"training": training, "accuracy": accuracy, "latency": latency}
    return Report("tfa-net", "TFA-Net", [], ENVIRONMENT, {"threads": 2}, facts=facts).to_dict()


def test_accuracy_and_cost() -> None:
    took, _, judged = tfa_net(report()).partition("\n\nPer cent, ")
    assert took.startswith("Training, `lite0`, the whole command on A CPU (`cff-bench tfa-net ")
    assert took.splitlines()[-1] == "| ring | 30 | 3.1 | 60 | 4.0 | 39 | 17 |"
    assert judged.startswith("mean over 5 draws")
    assert "`cff`: what cff is; `tfa-net`: what tfa-net is." in judged
    assert judged.splitlines()[-2:] == [
        "| ring | 1 | `cff` | 90.0 ± 1.2 | 91.0 ± 1.2 | 92.0 ± 1.2 | 93.0 ± 1.2 | 80.0 |",
        "| ring | 1 | `tfa-net` | 80.0 | 81.0 | 82.0 | 83.0 | 70.0 |",
    ]


def test_minutes_that_were_not_measured_are_a_dash() -> None:
    fields = report()
    fields["facts"]["training"]["products"][0]["cpu_minutes"] = None
    assert "| ring | 30 | 3.1 | 60 | – | 39 | 17 |" in tfa_net(fields)


def test_latency() -> None:
    words, _, table = tfa_net_latency(report()).partition("\n\n")
    assert "of ring, 256 px, K = 4, image in memory, A CPU, 2 threads, batch 1, n = 100" in words
    assert words.endswith("(`cff-bench tfa-net --check`). int8 is not timed.")
    assert table.splitlines()[2:] == [
        "| `cff fp32` | 10.0 | 12.1 | 99.6 | 1.00 | 6.0 | 2.0 | 15.3 | 2.6 |",
        "| `tfa-net fp32` | 10.0 | 12.1 | 99.6 | 1.40 (1.38 to 1.44) | 9.0 | 0.0 | 15.3 | 2.6 |",
    ]
