"""Write the seeds of the fuzz targets: small valid inputs, made by the Python runtime.

    python runtime/c/fuzz/make_seeds.py

They are committed; run it again when a format changes.
"""

import json
import struct
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from cff_runtime.encoder_signature import Condition, MapOutput, ScoreOutput
from cff_runtime.manifest import FileEntry, Manifest, Stage, Variant
from cff_runtime.origin import Origin
from cff_runtime.preprocessing import Preprocessing
from cff_runtime.profile import Profile
from cff_runtime.references import Reference
from cff_runtime.thresholds import Threshold

CORPUS = Path(__file__).parent / "corpus"
UNIT = np.array([[0.6, 0.8]], np.float32)


def make_manifest() -> Manifest:
    """Two stages, two precisions, weights beside a graph."""
    names = ("e.onnx", "e.onnx.data", "f.onnx", "s0.onnx", "s1.onnx", "text", "golden")
    draft = Manifest(
        id="",
        precision="fp32",
        encoder="e.onnx",
        scorers=("s0.onnx", "s1.onnx"),
        preprocessing=Preprocessing(96, 64),
        stages=(Stage("a", (6, 4), 24), Stage("b\n\u00e9", (3, 2), 40)),
        distance="log",
        condition=Condition("text", (64, 2), "words", "text", ("object", "bottle"), None, None),
        map=MapOutput("text_map", 0.1),
        score=ScoreOutput("text_score", "max"),
        golden="golden",
        files={name: FileEntry(f"{i:064x}", i) for i, name in enumerate(names)},
        backbone={},
        head={},
        parity={},
        passes=(),
        tools={},
        licences={},
        notes=("n",),
        created="now",
    )
    half = replace(draft, encoder="f.onnx")
    variant = Variant("f.onnx", half.compute_id(), (), {}, {})
    return replace(draft, id=draft.compute_id(), variants={"fp16": variant})


def make_template_manifest() -> Manifest:
    """One whose condition is of a reference, and that searches nothing."""
    draft = replace(
        make_manifest(),
        scorers=(),
        condition=Condition("template", (24, 24), "reference", None, (), 0, "medoid"),
        map=MapOutput("anomaly_map", 1.0),
        score=ScoreOutput(None, "std"),
        variants={},
    )
    return replace(draft, id=draft.compute_id())


def make_profile() -> Profile:
    """One reference of 1 x 1 px, one stage: what `fuzz_profile.c` puts around facts."""
    return Profile(
        product='r "\u00e9\U0001f600',
        bundle_id="0" * 64,
        origin=Origin("fp32", "1" * 64, {"height": 1, "width": 1}, "log", 0.1, "max"),
        banks=(UNIT,),
        means=(UNIT,),
        condition=UNIT,
        reference_images=np.array([[[[1, 2, 3]]]], np.uint8),
        references=(Reference("a.png", "2" * 64, "now", (150, 120)),),
        threshold=Threshold(
            value=0.5,
            pixel_value=1e-5,
            method="self-augmentation",
            n_parts=1,
            scores=(0.1, 0.25),
            peaks=(1.5, 1e22),
            expected_false_rejects=1.0,
            statement="s",
            review=0.25,
            card={"n": 1},
        ),
        display_range=(0.0, 2.0),
        peak_scale=0.3,
        condition_name="object",
        product_limit=0.7,
        settings={"margin": 0.2, "max_bank": None},
        compression={"method": "coreset"},
        history=({"action": "enroll"},),
    )


def profile_file(profile: Profile) -> tuple[bytes, str]:
    """Return the file of a profile, and its facts alone."""
    path = CORPUS / "profile" / "file"
    profile.save(path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return data, str(json.loads(data[8 : 8 + size])["__metadata__"]["cff_profile"])


def image(height: int, width: int, how: int, n_rows: int, n_columns: int) -> bytes:
    """Return what `fuzz_image.c` takes: target size, kind and size of the image, pixels."""
    return bytes((height, width, how, n_columns, n_rows, 5, *range(0, 250, 7)))


def write(target: str, **seeds: bytes) -> None:
    """Write the seeds of a target."""
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        (folder / name).write_bytes(data)


def main() -> None:
    """Write the seeds of all targets."""
    (CORPUS / "profile").mkdir(parents=True, exist_ok=True)
    manifest = json.dumps(asdict(make_manifest())).encode()
    file, facts = profile_file(make_profile())
    bare = json.loads(facts)
    del bare["threshold"]["review"], bare["threshold"]["card"]
    bare["compression"] = None
    template = json.dumps(asdict(make_template_manifest())).encode()
    write("manifest", full=manifest, template=template)
    write("json", facts=facts.encode(), manifest=manifest, numbers=b'{"a": [-0, 1.5e-7, 1E+22]}')
    write("profile", facts=b"F" + facts.encode(), bare=b"F" + json.dumps(bare).encode())
    tensors: dict[str, NDArray[Any]] = {"a": np.ones((2, 1), np.float32)}
    tensors["b"] = np.zeros((0, 3), np.uint8)
    write("safetensors", profile=file, two=save(tensors, {"k": "v"}), none=save({}))
    write(
        "image",
        rgb=image(24, 31, 0, 20, 30),
        bgr=image(5, 70, 1, 60, 9),
        rgba=image(8, 8, 2, 90, 100),
        grey=image(42, 30, 3, 30, 42),
        fields=bytes((9, 9, 4)) + struct.pack("<4I", 64, 48, 0, 200),
    )
    write("resize", down=bytes((60, 70, 16, 16, 3, 9)), up=bytes((5, 4, 60, 33, 0, 9)))
    write("regions", small=bytes((9, 9, 100, 0, 0, 0, 80, 0, 0, 0, 0, *range(0, 243, 3))))


if __name__ == "__main__":
    main()
