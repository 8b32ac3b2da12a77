"""anomalib's PatchCore as anomalib exports it, run by ONNX Runtime.

It lives in anomalib's own environment (`make peers-install`), where `onnx`, `onnxscript` and
`onnxruntime` must be installed beside it. Network and settings are those that `cff_peers` judges
with: EfficientNet-Lite0, a coreset of a tenth of the patches, nine neighbours. Its graph begins
with the float image and ends with score and map; resizing to the input and scaling to 0..1 are
Pillow's and NumPy's, as a user of the exported file does them.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cff_bench.peers.answer import Answer, Stopwatch
from cff_bench.peers.subject import Subject
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError, MissingDependencyError, UsageError

_PEER = "patchcore"
_EMBEDDED = "efficientnet-lite0"
_SEED = 0


def load_exported(subject: Subject) -> Callable[[], Answer]:
    """Fit PatchCore to the references, export it, and return its inspection.

    Raises
    ------
    MissingDependencyError
        If anomalib, or what its export needs, is not installed.
    UsageError
        If the bundle is of another network than the one that PatchCore is compared on.
    BackendError
        If anomalib cannot export it.
    """
    name = Bundle.open(subject.bundle).manifest.backbone["name"]
    if name != _EMBEDDED:
        raise UsageError(f"PatchCore is compared on {_EMBEDDED}, this bundle is of {name}")
    try:
        import anomalib  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"anomalib's exported models need packages that are not installed ({error}); run "
            "`make peers-install` and `.venv-peers/bin/pip install onnx onnxscript onnxruntime`"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = subject.threads
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="cff-anomalib-") as folder:
        file, spec = _export(subject, Path(folder))
        session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])

    def inspect() -> Answer:
        watch = Stopwatch()
        pixels = _prepared(subject.image, spec)
        watch.lap("preprocess")
        outputs = session.run(None, {session.get_inputs()[0].name: pixels})
        found = dict(zip([one.name for one in session.get_outputs()], outputs, strict=True))
        watch.lap("network and search")
        anomaly_map = np.asarray(found["anomaly_map"], np.float32).reshape(spec.size_px, -1)
        return Answer(float(np.ravel(found["pred_score"])[0]), anomaly_map, watch.stages_ms)

    return inspect


def _export(subject: Subject, folder: Path) -> tuple[Path, Any]:
    """Fit as `cff-peers` does, then export with anomalib's own `to_onnx`."""
    import torch
    from anomalib.models import Patchcore

    from cff_peers.anomalib_peers import PatchCorePeer

    torch.set_num_threads(subject.threads)
    peer = PatchCorePeer(_EMBEDDED, torch.device("cpu"))
    references = np.concatenate([_prepared(image, peer.input) for image in subject.references])
    peer.fit(torch.from_numpy(references), _PEER, _SEED)
    try:
        module = Patchcore(
            backbone=peer._backbone.module,
            layers=peer._layers,
            pre_processor=False,
            post_processor=False,
            evaluator=False,
            visualizer=False,
        )
        module.model = peer._model
        size = (peer.input.size_px, peer.input.size_px)
        file = Path(module.to_onnx(folder, input_size=size, dynamic_axes={}))
    except Exception as error:  # anomalib and torch.onnx raise many kinds
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackendError(f"anomalib could not export PatchCore: {first[:160]}") from error
    return file, peer.input


def _prepared(image: NDArray[np.uint8], spec: Any) -> NDArray[np.float32]:
    """Squash to a square and normalise, float32 [1,3,h,w]."""
    size = (spec.size_px, spec.size_px)
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), np.float32)
    normalised = (resized - np.float32(spec.mean)) / np.float32(spec.std)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None], dtype=np.float32)
