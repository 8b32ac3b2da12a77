"""Tables of docs/thresholds.md: stated risks and what was found."""

from typing import Any

from cff_bench.document_tables.formats import markdown_table


def thresholds_bounds(report: dict[str, Any]) -> str:
    """Share of simulated draws in which the stated bound holds, by distribution."""
    rows = report["simulation"]["further"]
    laws = list(dict.fromkeys(row["law"] for row in rows))
    cells: dict[tuple[int, float], dict[str, str]] = {}
    for row in rows:
        cells.setdefault((row["n"], row["stated"]), {})[row["law"]] = f"{row['held']:.2%}"
    table = [
        [str(n), f"{100 * bound:g} %", *(held[law] for law in laws)]
        for (n, bound), held in cells.items()
    ]
    by_hand = report["simulation"]["by_hand"]
    table.append(
        [
            f"{by_hand[0]['n']}",
            "any, by hand",
            *(f"{row['held']:.2%}" for law in laws for row in by_hand if row["law"] == law),
        ]
    )
    settings = report["settings"]
    return (
        f"**Simulated.** Share of {settings['draws']} draws in which the true share of false "
        f"rejects is within the bound that is stated with {settings['confidence']:.0%} confidence "
        "(`cff-bench thresholds BUNDLE --json benchmarks/results/thresholds.json`). *By hand*: all "
        "statements of a draw at once.\n\n"
        + markdown_table(["n", "false rejects <=", *laws], table)
    )


def thresholds_left_out(report: dict[str, Any]) -> str:
    """Rate at which the next part exceeds the references, beside its bound."""
    table = [
        [
            row["law"],
            str(row["n_references"]),
            *(
                f"{row[key]:.1%}"
                for key in ("stated", "rate", "text_stated", "text_rate", "text_largest")
            ),
        ]
        for row in report["simulation"]["left_out"]
    ]
    header = ["parts", "K", "<=", "false rejects", "text tower <=", "false rejects", "unprotected"]
    return (
        "**References alone**, simulated with nearest-neighbour scores in three dimensions, at the "
        "lowest threshold that the rule may take. *Unprotected*: what a text tower would give with "
        "the largest score as threshold, beyond 1 / (K + 1) in places.\n\n"
        + markdown_table(header, table)
    )


def thresholds_real(report: dict[str, Any]) -> str:
    """Share of draws of held-out parts in which the bound holds."""
    real = report["real"]
    ordered = {(row["set"], row["product"]): row for row in real["in_order"]}
    table = []
    for (name, product), row in ordered.items():
        drawn = [r for r in real["further"] if (r["set"], r["product"]) == (name, product)]
        table.append(
            [
                f"{name}/{product}",
                str(drawn[0]["n_parts"]),
                *(f"{r['held']:.1%}" for r in drawn),
                f"{row['n']}: {100 * row['stated']:g} %",
                f"{row['n_rejected']} of {row['n_next']}",
            ]
        )
    header = [
        "product",
        "held-out parts",
        *(f"n = {r['n']}, <= {100 * r['stated']:g} %" for r in real["further"][:2]),
        "all training parts left: <=",
        "test parts rejected",
    ]
    rejected = sum(row["n_rejected"] for row in ordered.values())
    n_next = sum(row["n_next"] for row in ordered.values())
    expected = sum(row["n_next"] * row["expected_stated"] for row in ordered.values())
    return (
        "**Good parts that no bank has seen** (embedded encoder, K = 4). Share of draws, with "
        "replacement from the held-out parts, in which the bound holds; then, with no draw of "
        f"ours, training parts set the threshold and test parts follow: {rejected} of {n_next} are "
        f"rejected, where at most {expected:.1f} are expected.\n\n" + markdown_table(header, table)
    )


def thresholds_rule(report: dict[str, Any]) -> str:
    """The rule of thumb before and after."""
    table = [
        [
            "`mvtec_mini`, held out" if row["held_out"] else "sets it was chosen on",
            str(row["k"]),
            *(f"{share:.1%}" for share in (*row["former"], *row["rule"])),
            f"{sum(row['former']) / 2:.1%}",
            f"{sum(row['rule']) / 2:.1%}",
        ]
        for row in report["real"]["rule_means"]
    ]
    header = [
        "parts",
        "K",
        "false rejects before",
        "false accepts before",
        "false rejects",
        "false accepts",
        "mean before",
        "mean",
    ]
    return (
        "Means over products (4 held out; 6 of the others) and "
        f"{report['settings']['reference_draws']} draws of references, `efficientnet-lite0` at "
        "256 px, log distances.\n\n" + markdown_table(header, table)
    )
