"""The measurement of threshold promises: laws against SciPy, the simulation against the runtime."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cff_bench.thresholds import command, simulation
from cff_bench.thresholds.laws import LAWS
from cff_bench.thresholds.real import SHOTS, _means, _try_further, former_limit
from cff_bench.thresholds.remembering import RememberingBackend
from cff_runtime.backends import Encoding
from cff_runtime.errors import UsageError
from cff_runtime.thresholds import choose_threshold


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_the_share_above_is_that_of_the_draws(law: object) -> None:
    """400,000 draws: four standard deviations are 0.003."""
    scores = law.draw(np.random.default_rng(0), (400_000,))

    for limit in np.quantile(scores, [0.05, 0.5, 0.9, 0.99]):
        found = float(law.share_above(np.array([limit]))[0])
        assert found == pytest.approx((scores > limit).mean(), abs=0.003)


def test_known_laws_agree_with_scipy() -> None:
    values = np.linspace(0.1, 9.0, 50)
    by_name = {law.name: law.share_above(values) for law in LAWS}

    np.testing.assert_allclose(by_name["normal"], stats.norm.sf(values), rtol=1e-12)
    np.testing.assert_allclose(by_name["heavy tails (Cauchy)"], stats.cauchy.sf(values), rtol=1e-9)
    np.testing.assert_allclose(by_name["skewed (log-normal)"], stats.lognorm.sf(values, 1))


@pytest.mark.parametrize(("n", "wish"), simulation.CASES)
def test_the_simulated_threshold_is_the_runtime_s(n: int, wish: float | None) -> None:
    rows = simulation.simulate_further(5, 0.95)
    row = next(r for r in rows if (r["n"], r["wish"]) == (n, wish))
    law = next(law for law in LAWS if law.name == row["law"])
    scores = law.draw(np.random.default_rng(3), (1, n))[0]

    chosen = choose_threshold([-99.0] * 2, [-99.0] * 2, 2, further=scores, max_false_reject=wish)

    assert chosen.value == np.sort(scores)[-row["rank"]]
    assert simulation.stated(chosen.card["risk"]["false_rejects"]) == row["stated"]
    assert simulation.stated(chosen.expected_false_rejects) == row["expected_stated"]


def test_left_out_scores_are_nearest_neighbours_without_themselves() -> None:
    points = np.array([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [5.0, 0.0, 0.0], [7.0, 0.0, 0.0]]])

    np.testing.assert_array_equal(simulation._distances(points), [[1.0, 1.0, 4.0, 2.0]])


def test_the_report_without_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_thresholds_parser(parser.add_subparsers())
    args = parser.parse_args(["thresholds", "--draws", "3000", "--json", str(tmp_path / "t.json")])
    args.command_line = ("cff-bench", "thresholds")

    code = args.run(args)

    report = json.loads((tmp_path / "t.json").read_text())
    assert report["real"] is None and report["command"] == ["cff-bench", "thresholds"]
    assert code == (0 if report["holds"] else 1)
    for row in report["simulation"]["further"]:
        assert row["held"] > 0.935  # four standard deviations of 3000 draws
        assert row["expected"] < row["expected_stated"] + 5 * row["expected_error"]
    assert all(row["held"] > 0.95 for row in report["simulation"]["by_hand"])
    for row in report["simulation"]["left_out"]:
        assert row["rate"] < row["stated"] + 0.03 and row["text_rate"] < row["text_stated"]
    said = capsys.readouterr().out
    assert "references left out" in said and "held-out" not in said


@pytest.mark.parametrize("draws", [(0, 3), (10, 0)])
def test_draws_must_be_positive(draws: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="`--draws`"):
        command.measure(None, None, *draws)


def test_the_former_rule_by_hand() -> None:
    assert former_limit([1.0, 2.0, 4.0]) == 4.0 + 0.25 * 2.0


def test_held_out_parts_are_a_population_that_can_be_counted() -> None:
    """Of 40 scores, the largest of 8 drawn is exceeded by a known share: (rank - 1) / 40."""
    train, test = np.arange(30.0), np.arange(30.0, 40.0)

    rows, ordered = _try_further(train, test, 20_000, 0.95)

    assert [row["n"] for row in rows] == [8, 20] and rows[0]["n_parts"] == 40
    # P(largest of 8 is not among the 12 lower than 0.32 * 40 from the top)
    assert rows[0]["held"] == pytest.approx(1 - (27 / 40) ** 8, abs=0.006)
    assert ordered["n_rejected"] == ordered["n_next"] == 10  # these did not come alike
    assert ordered["n"] == 30


def test_means_are_over_products_of_either_kind() -> None:
    rule = [
        {"set": name, "k": k, "former": [0.0, share], "rule": [share, 0.0]}
        for k in SHOTS
        for name, share in (("piped", 0.2), ("ballscrew", 0.4), ("mvtec_mini", 1.0))
    ]

    means = _means(rule)

    assert len(means) == 2 * len(SHOTS)
    assert means[0]["former"] == pytest.approx([0.0, 0.3]) and means[0]["n_products"] == 2
    assert means[-1]["rule"] == [1.0, 0.0] and means[-1]["held_out"]


def test_an_image_is_encoded_once() -> None:
    class Counting:
        n_encoded = 0

        def encode(self, image: np.ndarray, text: np.ndarray) -> Encoding:
            self.n_encoded += 1
            return Encoding((), image[:, :, 0].astype(np.float32), None)

    backend = Counting()
    remembering = RememberingBackend(backend)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    text = np.zeros((4, 2), np.float32)

    found = [remembering.encode(image, text) for image in (*images, *images)]

    assert backend.n_encoded == 3
    assert found[:3] == found[3:]
    np.testing.assert_array_equal(found[1].map, images[1, :, :, 0])
    with pytest.raises(ValueError, match="read-only"):
        found[0].map += 1.0
