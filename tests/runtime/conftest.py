"""Fixtures of the runtime's tests: bundles to damage, and a backend that is plain NumPy."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from cff_runtime import Bundle, Inspector
from cff_runtime.backends import Encoding
from cff_runtime.encoder_signature import ScoreOutput
from cff_runtime.preprocessing import Preprocessing


class NumpyBackend:
    """Pools patches to tokens and mixes them with a seeded matrix; the maths of a real encoder.

    The score is the mean grey value, 0 to 1; the map is the image's red channel.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._stages = bundle.manifest.stages
        self._has_score = bundle.manifest.score.output is not None
        rng = np.random.default_rng(5)
        self._mixers = [rng.normal(size=(stage.width, 4)) for stage in self._stages]
        self.n_uploads = 0

    def encode(self, image: NDArray[np.uint8], condition: NDArray[np.float32]) -> Encoding:
        features = []
        for stage, mixer in zip(self._stages, self._mixers, strict=True):
            rows, columns = stage.grid
            patches = image.reshape(rows, image.shape[0] // rows, columns, -1, 3)
            means = patches.mean(axis=(1, 3)).reshape(-1, 3) / 255.0
            tokens = np.column_stack([means, np.full(len(means), 0.3)]) @ mixer.T
            tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
            features.append(tokens.astype(np.float32)[None])
        score = float(image.mean() / 255.0) if self._has_score else None
        return Encoding(tuple(features), (image[:, :, 0] / 255.0).astype(np.float32), score)

    def upload_bank(self, bank: NDArray[np.float32]) -> NDArray[np.float32]:
        self.n_uploads += 1
        return bank.copy()

    def search(
        self, stage: int, features: NDArray[np.float32], bank: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return (features[0] @ bank.T).max(axis=1)

    def download(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return features[0]


@pytest.fixture
def numpy_inspector(lite_bundle: Bundle, tmp_path: Path) -> Callable[..., Inspector]:
    """Return the factory ``numpy_inspector(text_tower=False, distance="log")``, 32 x 32 px."""

    def make(text_tower: bool = False, distance: str = "log") -> Inspector:
        manifest = lite_bundle.manifest
        folder = tmp_path / f"numpy_{text_tower}"
        folder.mkdir(exist_ok=True)
        condition = manifest.condition
        assert condition.file is not None
        vectors = np.eye(*condition.shape, dtype=np.float32)
        save_file(dict.fromkeys(condition.names, vectors), folder / condition.file)
        small = replace(
            manifest,
            preprocessing=Preprocessing(32, 32),
            stages=tuple(
                replace(stage, grid=grid, width=width)
                for stage, grid, width in zip(
                    manifest.stages, ((8, 8), (8, 4), (4, 4), (1, 2)), (5, 6, 7, 8), strict=True
                )
            ),
            distance=distance,
            score=ScoreOutput("text_score" if text_tower else None, "max"),
        )
        bundle = Bundle(folder, small)
        return Inspector(bundle, NumpyBackend(bundle))

    return make


def _link_or_copy(source: str, target: str) -> None:
    """Link the encoder, which no test edits in place; copy the rest."""
    (os.link if Path(source).stat().st_size > 4 << 20 else shutil.copy)(source, target)


@pytest.fixture
def bundle_copy(lite_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle's folder to damage."""
    folder = tmp_path / "bundle_copy"
    shutil.copytree(lite_bundle.path, folder, copy_function=_link_or_copy)
    return folder


Edit = Callable[[dict[str, Any]], None]


def _manifest_id(fields: dict[str, Any]) -> str:
    """Compute the id from the JSON alone, written from the documentation."""
    graphs = [fields["encoder"], *fields["scorers"]]
    graphs += [f"{name}.data" for name in graphs if f"{name}.data" in fields["files"]]
    core = {
        "schema_version": fields["schema_version"],
        "graphs": [fields["files"][name]["sha256"] for name in graphs],
        "preprocessing": fields["preprocessing"],
        "stages": fields["stages"],
        "distance": fields["distance"],
        "condition": {
            name: fields["condition"][name]
            for name in ("input", "shape", "source", "stage", "choice")
        },
        "map": {name: fields["map"][name] for name in ("output", "weight")},
        "score": {name: fields["score"][name] for name in ("output", "statistic")},
    }
    return hashlib.sha256(json.dumps(core, sort_keys=True).encode()).hexdigest()


@pytest.fixture(scope="session")
def manifest_id() -> Callable[[dict[str, Any]], str]:
    return _manifest_id


@pytest.fixture(scope="session")
def edit_manifest() -> Callable[..., None]:
    """Return ``edit_manifest(folder, edit=None, rehash=False)``.

    `rehash` makes hashes, sizes and id fit the files again, as a careful forger would.
    """

    def change(folder: Path, edit: Edit | None = None, rehash: bool = False) -> None:
        path = folder / "manifest.json"
        fields = json.loads(path.read_text())
        if edit is not None:
            edit(fields)
        if rehash:
            for name, entry in fields["files"].items():
                data = (folder / name).read_bytes()
                entry.update(sha256=hashlib.sha256(data).hexdigest(), n_bytes=len(data))
            fields["id"] = _manifest_id(fields)
        path.write_text(json.dumps(fields))

    return change


# a box has none of these: its output is buffered, its warnings are printed
_PYTHON_SETTINGS = ("PYTHONUNBUFFERED", "PYTHONWARNINGS", "PYTHONIOENCODING")


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return ``run_python(code, *arguments, stdout=PIPE)``, which runs a Python of its own."""

    def run(code: str, *arguments: object, **streams: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        environment = {k: v for k, v in os.environ.items() if k not in _PYTHON_SETTINGS}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return subprocess.run(
            command, text=True, timeout=120, check=False, env=environment, **pipes
        )

    return run
