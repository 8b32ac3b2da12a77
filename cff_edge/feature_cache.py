"""Frozen features on disk, so that the backbone sees every image once.

One safetensors file per image, in half precision, named by a hash over the image file, the
backbone's facts and the preprocessing: a changed image or backbone never finds an old entry, and
an interrupted run continues where it stopped.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from cff_edge.detector import Detector
from cff_runtime.errors import ImageError
from cff_runtime.imaging import load_image
from cff_runtime.preprocessing import Preprocessing
from cff_runtime.storage import atomic_write, sha256_bytes

_ENCODE_BATCH = 4


class FeatureCache:
    """Raw stage tokens of images, computed on first use.

    Parameters
    ----------
    folder : Path
        Where the entries lie; may be shared by runs.
    detector : Detector
        Its trunk encodes; the head plays no part.
    device : torch.device
        Where the trunk runs.
    """

    def __init__(self, folder: Path, detector: Detector, device: torch.device) -> None:
        self._folder = folder
        self._detector = detector
        self._device = device
        size = detector.info.image_size
        self._preprocessing = Preprocessing(size, size)
        facts = [dataclasses.asdict(detector.info), self._preprocessing.to_dict()]
        self._facts = json.dumps(facts, sort_keys=True).encode()

    def fill(self, paths: Sequence[Path]) -> None:
        """Encode every image that has no entry yet, with a progress bar.

        Raises
        ------
        ImageError
            If an image cannot be used.
        StorageError
            If an entry cannot be written.
        """
        missing = [path for path in paths if self._read(path) is None]
        bar = tqdm(total=len(missing), desc="encode", unit="image", disable=None)
        with bar, torch.inference_mode():
            for start in range(0, len(missing), _ENCODE_BATCH):
                batch = missing[start : start + _ENCODE_BATCH]
                images = np.stack([self._preprocessing(load_image(path)) for path in batch])
                pixels = torch.from_numpy(images).to(self._device)
                stages, _ = self._detector.trunk(self._detector.normalize(pixels))
                for index, path in enumerate(batch):
                    entry = {
                        f"stage_{n}": stage[index].to("cpu", torch.float16).contiguous()
                        for n, stage in enumerate(stages)
                    }
                    atomic_write(self._entry(path), save(entry))
                bar.update(len(batch))

    def load(self, paths: Sequence[Path]) -> list[Tensor]:
        """Return the stages [B,N_s,E_s], float32, of images that `fill` has seen."""
        entries = []
        for path in paths:
            entry = self._read(path)
            if entry is None:  # deleted or damaged since `fill`
                self.fill([path])
                entry = self._read(path)
            assert entry is not None
            entries.append(entry)
        return [torch.stack(stage).float() for stage in zip(*entries, strict=True)]

    def _entry(self, path: Path) -> Path:
        try:
            key = sha256_bytes(self._facts + path.read_bytes())
        except OSError as error:
            raise ImageError(f"image `{path}` must be a readable file: {error}") from error
        return self._folder / key[:2] / f"{key}.safetensors"

    def _read(self, path: Path) -> list[Tensor] | None:
        entry = self._entry(path)
        n_stages = len(self._detector.info.stages)
        try:
            tensors = load_file(entry)
            return [tensors[f"stage_{stage}"] for stage in range(n_stages)]
        except (OSError, SafetensorError, KeyError):  # absent, damaged or of something else
            return None
