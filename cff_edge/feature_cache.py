"""Frozen features on disk, so that the backbone sees every image once.

One safetensors file per image, named by a hash over the image file, the backbone's facts and the
preprocessing: a changed image or backbone never finds an old entry, and an interrupted run
continues where it stopped. Tokens are kept in half precision; the embedding, where the backbone
has a text tower, in float32, because text scores multiply it by 100.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from cff_edge.backbones import BackboneInfo
from cff_runtime.errors import ImageError
from cff_runtime.imaging import load_image
from cff_runtime.preprocessing import Preprocessing
from cff_runtime.storage import atomic_write, sha256_bytes

_ENCODE_BATCH = 4
_EMBEDDING = "embedding"


class FrozenTrunk(Protocol):
    """The part of a detector that no training changes."""

    info: BackboneInfo
    trunk: nn.Module

    def normalize(self, image: Tensor) -> Tensor:
        """Map RGB images [B,H,W,3], uint8, to the trunk's input [B,3,H,W]."""
        ...


class FeatureCache:
    """Raw stage tokens and embeddings of images, computed on first use.

    Parameters
    ----------
    folder : Path
        Where the entries lie; may be shared by runs.
    detector : FrozenTrunk
        Its trunk encodes; what is trained plays no part.
    device : torch.device
        Where the trunk runs.

    Attributes
    ----------
    preprocessing : Preprocessing
        From an image [h,w,3] to the trunk's input [H,W,3], uint8.
    """

    def __init__(self, folder: Path, detector: FrozenTrunk, device: torch.device) -> None:
        self._folder = folder
        self._detector = detector
        self._device = device
        size = detector.info.image_size
        self.preprocessing = Preprocessing(size, size)
        facts = [dataclasses.asdict(detector.info), self.preprocessing.to_dict()]
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
        silent = None if missing else True  # None: on a terminal only
        bar = tqdm(total=len(missing), desc="encode", unit="image", disable=silent)
        with bar:
            for start in range(0, len(missing), _ENCODE_BATCH):
                batch = missing[start : start + _ENCODE_BATCH]
                stages, embedding = self.encode([load_image(path) for path in batch])
                for index, path in enumerate(batch):
                    entry = {
                        f"stage_{n}": stage[index].half().contiguous()
                        for n, stage in enumerate(stages)
                    }
                    if embedding is not None:
                        entry[_EMBEDDING] = embedding[index].contiguous()
                    atomic_write(self._entry(path), save(entry))
                bar.update(len(batch))

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> tuple[list[Tensor], Tensor | None]:
        """Encode images that are not files, such as augmented ones; nothing is stored.

        Parameters
        ----------
        images : sequence of B ndarrays of shape (h, w, 3), uint8
            RGB, resized here if they have not the trunk's size; at least one.

        Returns
        -------
        list of S tensors of shape (B, N_s, E_s), float32
            On the CPU, not rounded to half precision.
        Tensor of shape (B, C), float32, or None
            Image embeddings, of any length; None without a text tower.

        Raises
        ------
        ImageError
            If an image is not uint8 RGB of at least 16 x 16 px.
        """
        stages: list[list[Tensor]] = []
        embeddings = []
        for start in range(0, len(images), _ENCODE_BATCH):
            batch = images[start : start + _ENCODE_BATCH]
            pixels = torch.from_numpy(np.stack([self.preprocessing(image) for image in batch]))
            with torch.no_grad():
                tokens, embedding = self._detector.trunk(
                    self._detector.normalize(pixels.to(self._device))
                )
            stages.append([stage.float().cpu() for stage in tokens])
            embeddings += [] if embedding is None else [embedding.float().cpu()]
        joined = [torch.cat(parts) for parts in zip(*stages, strict=True)]
        return joined, torch.cat(embeddings) if embeddings else None

    def load(self, paths: Sequence[Path]) -> list[Tensor]:
        """Return the stages [B,N_s,E_s], float32, of images that `fill` has seen."""
        entries = self._entries(paths)
        n_stages = len(self._detector.info.stages)
        return [torch.stack([e[f"stage_{n}"] for e in entries]).float() for n in range(n_stages)]

    def load_embeddings(self, paths: Sequence[Path]) -> Tensor | None:
        """Return the image embeddings [B,C], float32, of images that `fill` has seen.

        None without a text tower.
        """
        if not self._detector.info.has_text_tower:
            return None
        return torch.stack([entry[_EMBEDDING] for entry in self._entries(paths)])

    def _entries(self, paths: Sequence[Path]) -> list[dict[str, Tensor]]:
        entries = []
        for path in paths:
            entry = self._read(path)
            if entry is None:  # deleted or damaged since `fill`
                self.fill([path])
                entry = self._read(path)
            assert entry is not None
            entries.append(entry)
        return entries

    def _entry(self, path: Path) -> Path:
        try:
            key = sha256_bytes(self._facts + path.read_bytes())
        except OSError as error:
            raise ImageError(f"image `{path}` must be a readable file: {error}") from error
        return self._folder / key[:2] / f"{key}.safetensors"

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        """Return an entry; None if it is absent, damaged, of something else or lacks a part."""
        info = self._detector.info
        wanted = {f"stage_{stage}" for stage in range(len(info.stages))}
        wanted |= {_EMBEDDING} if info.has_text_tower else set()
        try:
            tensors: dict[str, Tensor] = load_file(self._entry(path))
        except (OSError, SafetensorError):
            return None
        return tensors if wanted <= tensors.keys() else None
