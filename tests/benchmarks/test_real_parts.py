"""`cff-bench real-parts`: its parts alone, and the whole on the real defects below CFF_DATA."""

import json
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cff_bench import cli
from cff_bench.demo import real_parts
from cff_bench.demo.evaluation import Summary
from cff_bench.demo.real_parts import HEADS, METRICS, TEST_SET, TRAINING_SETS, run_real_parts
from cff_edge.config import load_config
from cff_edge.datasets import Dataset
from cff_runtime import Bundle

KEYS = {field.name for field in fields(Summary)}


class TestAlone:
    @pytest.fixture
    def data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        root = tmp_path / "data"
        for name in TRAINING_SETS:
            (root / name).mkdir(parents=True)
        for product in ("nut", "bolt"):
            path = root / TEST_SET / product / "test" / "good" / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(path)
        monkeypatch.setenv("CFF_DATA", str(root))
        return root

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """Record command lines; every product scores as its head's place and its name's length."""
        lines: list[list[str]] = []

        def run(command: Sequence[object]) -> str:
            lines.append([str(word) for word in command])
            return ""

        def evaluate(
            bundle: Path, dataset: Dataset, product: str, k: int, calibrator: str, out: Path
        ) -> tuple[Summary, list[Any], dict[str, Any]]:
            value = len(product) + 10.0 * list(HEADS).index(calibrator)
            values: dict[str, Any] = dict.fromkeys(METRICS, value)
            values |= {"product": product, "k": k, "calibrator": calibrator}
            values |= {"n_test_images": 1, "threshold": 1.0, "p50_ms": 1.0, "stages_ms": {}}
            summary = Summary(**values, bundle=str(bundle), profile=str(out))
            return summary, [], {}

        monkeypatch.setattr(real_parts, "run", run)
        monkeypatch.setattr(real_parts, "evaluate_product", evaluate)
        return lines

    def test_every_head_and_product_is_judged(
        self,
        data: Path,
        calls: list[list[str]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = tmp_path / "out"
        assert cli.main(["real-parts", "--out", str(out), "-k", "2"]) == 0
        result = json.loads((out / "summary.json").read_text())
        assert set(result) == {"trained_on", "k", "means", "products"}
        assert (result["trained_on"], result["k"]) == (list(TRAINING_SETS), 2)
        assert [(p["calibrator"], p["product"]) for p in result["products"]] == [
            (head, product) for head in HEADS for product in ("bolt", "nut")
        ]
        assert all(set(p) == KEYS and p["k"] == 2 for p in result["products"])
        for place, head in enumerate(HEADS):
            assert result["means"][head] == dict.fromkeys(METRICS, 3.5 + 10 * place)
        assert [(line[0], line[line.index("--out") + 1]) for line in calls] == [
            (command, str(out / head / folder))
            for head in HEADS
            for command, folder in (("cff-train", "run"), ("cff-export", "bundle"))
        ]
        for line in calls[::2]:
            assert line[1:5] == ["--data", *(str(data / name) for name in TRAINING_SETS)]
            assert TEST_SET not in " ".join(line)
            assert line[line.index("--cache") + 1] == str(out / "cache")
            assert "--resume" not in line
        table = capsys.readouterr().out
        assert [row.split()[0] for row in table.strip().splitlines()[1:]] == list(HEADS)
        assert "23.500" in table

    def test_an_interrupted_run_is_continued(
        self, data: Path, calls: list[list[str]], tmp_path: Path
    ) -> None:
        run = tmp_path / "out" / "none" / "run"
        run.mkdir(parents=True)
        (run / "config.toml").touch()
        run_real_parts(tmp_path / "out", heads=["raw", "none"], overrides=["train.seed=3"])
        trainings = [line for line in calls if line[0] == "cff-train"]
        assert ["--resume" in line for line in trainings] == [False, True]
        for line in trainings:
            assert line[line.index("train.seed=3") - 1] == "--set"

    @pytest.mark.parametrize("head", HEADS)
    def test_heads_are_valid_configurations(self, head: str) -> None:
        config = load_config(None, HEADS[head])
        assert config.head.calibrator == ("affine" if head == "affine" else "none")
        is_raw = head == "raw"
        assert (config.train.projector_epochs == 0) == is_raw
        assert (config.head.text_weight == 0) == is_raw
        assert (config.head.distance == "cosine") == is_raw
        if is_raw:  # an isometry, or else its features were not raw
            assert config.head.projector_init == "orthonormal"

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (None, "`CFF_DATA` must name the folder of the real images, it is not set"),
            ("", "`CFF_DATA` must name the folder of the real images, it is not set"),
            ("{}", "`CFF_DATA` must hold the data set `piped`, `{}` does not"),
        ],
    )
    def test_missing_images(
        self,
        value: str | None,
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.delenv("CFF_DATA", raising=False)
        if value is not None:
            monkeypatch.setenv("CFF_DATA", value.format(tmp_path))
        assert cli.main(["real-parts", "--out", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err == f"error: {message.format(tmp_path)}\n"
        assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three heads trained, exported and judged: minutes on two cores."""
    out = tmp_path_factory.mktemp("real") / "out"
    returned = run_real_parts(out)
    written: dict[str, Any] = json.loads((out / "summary.json").read_text())
    assert written == returned
    return written


@pytest.mark.real_parts
@pytest.mark.skipif(not os.environ.get("CFF_DATA"), reason="CFF_DATA names no real images")
class TestRealDefects:
    """Means over four products that no head was trained on, enrolled from four good parts each."""

    def test_summary_is_whole(self, result: dict[str, Any]) -> None:
        products = result["products"]
        names = ["bottle", "hazelnut", "metal_nut", "transistor"]
        assert [(p["calibrator"], p["product"]) for p in products] == [
            (head, name) for head in ("raw", "none", "affine") for name in names
        ]
        for entry in products:
            assert set(entry) == KEYS
            assert entry["k"] == 4
            assert entry["n_test_images"] in (12, 30)
            manifest = Bundle.open(Path(entry["bundle"])).manifest
            assert not set(names) & set(manifest.head["trained_on"])

    def test_means_are_means(self, result: dict[str, Any]) -> None:
        for head, means in result["means"].items():
            entries = [p for p in result["products"] if p["calibrator"] == head]
            for metric in METRICS:
                assert means[metric] == pytest.approx(np.mean([p[metric] for p in entries]))

    def test_affine_finds_the_parts(self, result: dict[str, Any]) -> None:
        assert result["means"]["affine"]["image_auroc"] >= 0.90

    def test_affine_finds_the_pixels(self, result: dict[str, Any]) -> None:
        assert result["means"]["affine"]["pixel_auroc"] >= 0.95

    def test_affine_is_no_worse_than_raw_features(self, result: dict[str, Any]) -> None:
        assert result["means"]["affine"]["pixel_ap"] >= result["means"]["raw"]["pixel_ap"]
