"""A bundle on a backend, ready to be timed part by part.

The runtime encodes one image at a time; the graph takes more. `OnnxRuntimeSubject` therefore runs
the encoder's graph itself, with the session options and bound buffers of the runtime's backend, and
leaves the search to that backend. The engines' backend takes one image and is asked as it is.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cff_bench.search.banks import bank_of
from cff_bench.sweep.axes import EncodePart, SearchPart, bank_rows
from cff_runtime.backends import Backend, open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError
from cff_runtime.verification import golden_condition

NOISE_SEED = 0
N_ENCODED = 2  # references that are encoded; larger banks repeat their rows, moved a little


class Subject(Protocol):
    """What can be timed."""

    def batch_limit(self, precision: str) -> int | None:
        """Return the largest batch of a precision's encoder; None is any."""
        ...

    def prepare(self, part: EncodePart | SearchPart) -> None:
        """Load what a part needs."""
        ...

    def run(self, part: EncodePart | SearchPart) -> object:
        """Do a part once; the device has finished when this returns."""
        ...


def open_subject(backend: str, bundle: Bundle) -> Subject:
    """Open a bundle with a backend of `axes.BACKENDS`.

    Raises
    ------
    BackendError, MissingDependencyError
        If it cannot run here.
    """
    name, _, provider = backend.partition("/")
    if name == "onnxruntime":
        return OnnxRuntimeSubject(bundle, provider)
    return BackendSubject(bundle, name)


def noise_images(bundle: Bundle, n_images: int) -> NDArray[np.uint8]:
    """Return seeded noise [B,H,W,3] of the network's size."""
    preprocessing = bundle.manifest.preprocessing
    shape = (n_images, preprocessing.height, preprocessing.width, 3)
    return np.random.default_rng(NOISE_SEED).integers(0, 256, shape, dtype=np.uint8)


class Banks:
    """A searcher's features of one image, and uploaded banks of any size."""

    def __init__(self, bundle: Bundle, encoder: Backend) -> None:
        self._bundle = bundle
        condition = golden_condition(bundle)
        encodings = [encoder.encode(image, condition) for image in noise_images(bundle, N_ENCODED)]
        downloaded = [[encoder.download(f) for f in encoding.features] for encoding in encodings]
        self.features = encodings[-1].features
        self._stages = [list(stage) for stage in zip(*downloaded, strict=True)]  # [S][2] of [N,C]

    def upload(self, searcher: Backend, part: SearchPart) -> list[Any]:
        """Put the bank of a part on the searcher's device, stage by stage.

        A compressed bank has as many rows, evenly spaced: the time depends on their number alone.
        """
        uploaded = []
        for stage, n_rows in zip(self._stages, bank_rows(part, self._bundle), strict=True):
            bank = bank_of(stage, part.shots)
            kept = np.linspace(0, len(bank) - 1, n_rows).round().astype(int)
            uploaded.append(searcher.upload_bank(bank[kept] if n_rows < len(bank) else bank))
        return uploaded


class OnnxRuntimeSubject:
    """A bundle in ONNX Runtime.

    Raises
    ------
    BackendError
        If the installed ONNX Runtime has no such provider or cannot load a graph.
    """

    def __init__(self, bundle: Bundle, provider: str) -> None:
        self._bundle, self._provider = bundle, provider
        self._condition = golden_condition(bundle)
        # one encoder of the runtime's own, for the features; also says at once what cannot run
        backend = open_backend("onnxruntime", bundle, {"provider": provider})
        self._banks = Banks(bundle, backend)
        self._encoders: dict[tuple[str, int], Any] = {}
        self._images: dict[int, NDArray[np.uint8]] = {}
        self._searchers: dict[int, Backend] = {}
        self._uploaded: dict[tuple[int, int], list[Any]] = {}

    def batch_limit(self, precision: str) -> int | None:
        """Return the batch that a graph was made for, or None if it is free."""
        variant = self._bundle.manifest.variants.get(precision)
        limit = None if variant is None else variant.facts.get("batch")
        return limit if isinstance(limit, int) else None

    def prepare(self, part: EncodePart | SearchPart) -> None:
        """Load an encoder, or a searcher with its bank."""
        if isinstance(part, EncodePart):
            if part.batch not in self._images:
                self._images[part.batch] = noise_images(self._bundle, part.batch)
            key = (part.precision, part.threads)
            if key not in self._encoders:
                self._encoders[key] = self._open_encoder(*key)
            return
        if part.threads not in self._searchers:
            # of its encoder nothing is asked: a small graph in its place saves a ViT-L's memory
            manifest = self._bundle.manifest
            light = Bundle(self._bundle.path, replace(manifest, encoder=manifest.scorers[0]))
            options = {"provider": self._provider, "threads": part.threads}
            self._searchers[part.threads] = open_backend("onnxruntime", light, options)
        if (part.shots, part.bank) not in self._uploaded:  # whatever the threads
            bank = self._banks.upload(self._searchers[part.threads], part)
            self._uploaded[part.shots, part.bank] = bank

    def run(self, part: EncodePart | SearchPart) -> object:
        """Encode a batch, or search a bank."""
        if isinstance(part, EncodePart):
            return self.encode(part)
        searcher = self._searchers[part.threads]
        banks = self._uploaded[part.shots, part.bank]
        return _search(searcher, self._banks.features, banks)

    def encode(self, part: EncodePart) -> list[Any]:
        """Return the outputs of the encoder for a batch, features on the device."""
        session, device, places = self._encoders[part.precision, part.threads]
        binding = session.io_binding()
        binding.bind_cpu_input("image", self._images[part.batch])
        name = self._bundle.manifest.condition.input
        binding.bind_cpu_input(name, np.ascontiguousarray(self._condition))
        for output in session.get_outputs():
            is_feature = output.name.startswith("features_")
            binding.bind_output(output.name, device if is_feature else "cpu")
        with places.caller():
            session.run_with_iobinding(binding)
        outputs: list[Any] = binding.get_outputs()
        return outputs

    def _open_encoder(self, precision: str, threads: int) -> tuple[Any, str, Any]:
        from cff_runtime.backends.core_places import CorePlaces
        from cff_runtime.backends.cpu_session import session_options
        from cff_runtime.backends.onnxruntime_providers import prepare_provider

        provider = prepare_provider(self._provider)
        places = CorePlaces(threads if provider.is_cpu else 1)
        options = session_options(threads, places)
        path = self._bundle.file(self._bundle.view(precision).manifest.encoder)
        try:
            return provider.open_session(str(path), options), provider.device, places
        except Exception as error:  # ONNX Runtime raises many kinds, all bare Exceptions
            raise BackendError(f"ONNX Runtime cannot load `{path}`: {error}") from error


class BackendSubject:
    """A bundle in a backend that takes one image at a time."""

    def __init__(self, bundle: Bundle, name: str) -> None:
        self._bundle, self._name = bundle, name
        self._image = noise_images(bundle, 1)[0]
        self._condition = golden_condition(bundle)
        self._backends = {bundle.manifest.precision: open_backend(name, bundle, {})}
        self._banks = Banks(bundle, self._searcher)
        self._uploaded: dict[tuple[int, int], list[Any]] = {}

    @property
    def _searcher(self) -> Backend:
        return self._backends[self._bundle.manifest.precision]

    def batch_limit(self, precision: str) -> int | None:
        """Return 1: the backend's `encode` takes one image."""
        return 1

    def prepare(self, part: EncodePart | SearchPart) -> None:
        """Load the engines of a precision, or a bank."""
        if isinstance(part, SearchPart):
            bank = self._banks.upload(self._searcher, part)
            self._uploaded[part.shots, part.bank] = bank
        elif part.precision not in self._backends:
            view = self._bundle.view(part.precision)
            self._backends[part.precision] = open_backend(self._name, view, {})

    def run(self, part: EncodePart | SearchPart) -> object:
        """Encode an image, or search a bank."""
        if isinstance(part, EncodePart):
            return self._backends[part.precision].encode(self._image, self._condition)
        banks = self._uploaded[part.shots, part.bank]
        return _search(self._searcher, self._banks.features, banks)


def _search(
    searcher: Backend, features: Sequence[Any], banks: Sequence[Any]
) -> list[NDArray[np.float32]]:
    pairs = zip(features, banks, strict=True)
    return [searcher.search(stage, handle, bank) for stage, (handle, bank) in enumerate(pairs)]
