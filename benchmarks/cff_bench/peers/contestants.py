"""The contestants by name, each loaded in a process of its own.

Packages are imported here on first use, so that a process holds what its contestant needs and
nothing else.
"""

from collections.abc import Callable
from typing import Any

from cff_bench.peers.answer import Answer
from cff_bench.peers.subject import Subject, admitted_precisions, bench_profile
from cff_runtime import Inspector
from cff_runtime.backends import Backend, open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError, MissingDependencyError, UsageError
from cff_runtime.manifest import DEFAULT_PRECISION, Manifest

OURS = "onnxruntime"
EAGER, COMPILED, REDUCED = "pytorch eager", "pytorch compile", "pytorch eager reduced"
_EAGER_KINDS = {EAGER: "plain", COMPILED: "compiled", REDUCED: "reduced"}
OPENVINO = "openvino"
APRIL_GAN = "april-gan as published"
ANOMALIB = "anomalib patchcore exported"
REFERENCE = f"{OURS} {DEFAULT_PRECISION}"  # what answers are compared with

Inspect = Callable[[], Answer]


def contestant_names(manifest: Manifest) -> list[str]:
    """Return who takes part for a bundle, this project's first."""
    admitted = admitted_precisions(manifest)
    names = [f"{OURS} {precision}" for precision in admitted]
    names += [EAGER, COMPILED]
    if any(stage.width < manifest.condition.shape[0] for stage in manifest.searched):
        names.append(REDUCED)  # of other networks the rank is full
    names += [f"{OPENVINO} fp32", f"{OPENVINO} bf16", f"{OPENVINO} int8"]
    return [*names, APRIL_GAN, ANOMALIB]


def answers_alike(name: str, has_head: bool) -> bool:
    """Whether a contestant computes what the bundle does, so that its map can be compared.

    Parameters
    ----------
    name : str
    has_head : bool
        Whether PyTorch has the head and the weights of the bundle.
    """
    return name not in (APRIL_GAN, ANOMALIB) and (has_head or name not in _EAGER_KINDS)


def load_contestant(name: str, subject: Subject) -> Inspect:
    """Load a contestant, fill its memory bank, and return its inspection of the subject's image.

    Raises
    ------
    MissingDependencyError
        If its package is not installed.
    UsageError, BackendError, CffError
        If it cannot run this bundle here; the message says why.
    """
    if name in _EAGER_KINDS:
        return _load_eager(subject, _EAGER_KINDS[name])
    if name == APRIL_GAN:
        return _load_april_gan(subject)
    if name == ANOMALIB:
        from cff_bench.peers.anomalib_export import load_exported

        return load_exported(subject)
    engine, _, precision = name.partition(" ")
    if engine == OURS:
        bundle = Bundle.open(subject.bundle, precision)
        backend = open_backend("onnxruntime", bundle, {"threads": subject.threads})
        return _inspection(subject, Inspector(bundle, backend), backend)
    if engine == OPENVINO:
        return _load_openvino(subject, precision)
    raise UsageError(f"`name` must be a contestant, got {name!r}")


def _inspection(subject: Subject, inspector: Inspector, backend: Backend) -> Inspect:
    template = subject.template()
    manifest = inspector.bundle.manifest
    profile = bench_profile(template, manifest, backend, list(subject.references))

    def inspect() -> Answer:
        result = inspector.inspect(subject.image, profile)
        return Answer(result.score, result.anomaly_map, dict(result.stages_ms))

    return inspect


def _load_openvino(subject: Subject, precision: str) -> Inspect:
    try:
        from cff_bench.peers.openvino_backend import OpenVinoBackend, can_compute
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "package `openvino` must be installed for this; run `pip install openvino`"
        ) from error
    if precision == "bf16" and not can_compute("bf16"):
        raise BackendError("OpenVINO says that this CPU has no bf16")
    graph = "int8" if precision == "int8" else DEFAULT_PRECISION
    manifest = Bundle.open(subject.bundle).manifest
    if graph not in manifest.precisions:
        raise UsageError("the bundle has no int8 graph")
    bundle = Bundle.open(subject.bundle, graph)
    backend = OpenVinoBackend(bundle, precision, subject.threads)
    return _inspection(subject, Inspector(bundle, backend), backend)


def _load_eager(subject: Subject, kind: str) -> Inspect:
    import torch

    from cff_bench.peers.eager import EagerInspection

    torch.set_num_threads(subject.threads)
    profile = subject.template()
    inspection = EagerInspection(
        Bundle.open(subject.bundle).manifest,
        subject.run,
        profile.condition,
        list(subject.references),
        profile.peak_scale,
        kind,
    )
    return lambda: inspection.inspect(subject.image)


def _load_april_gan(subject: Subject) -> Inspect:
    manifest = Bundle.open(subject.bundle).manifest
    name = manifest.backbone["name"]
    if not name.startswith("open_clip:"):
        raise UsageError(f"APRIL-GAN is defined for CLIP vision transformers, not {name}")
    if manifest.condition.source != "words":
        raise UsageError("APRIL-GAN compares with text vectors, and the bundle has none")
    import torch

    from cff_bench.peers.april_gan import AprilGan
    from cff_bench.precision.eager import rebuild_detector

    torch.set_num_threads(subject.threads)
    detector: Any = rebuild_detector(manifest)
    trunk = detector.trunk
    method = AprilGan(
        trunk.visual,
        list(detector.head.projectors),
        [index + 1 for index in trunk.indices],
        subject.template().condition,
        [value / 255.0 for value in manifest.backbone["mean"]],
        [value / 255.0 for value in manifest.backbone["std"]],
    )
    method.remember(list(subject.references))
    return lambda: method.inspect(subject.image)
