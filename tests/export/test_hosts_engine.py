"""TensorRT-RTX parses a standalone graph and builds it for a batch of one; it cannot run here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_export.hosts import write_standalone, write_triton_repository
from cff_runtime import Inspector
from cff_runtime.errors import UsageError

trt = pytest.importorskip("tensorrt_rtx")


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("family", ["lite", "vit"])
def test_parse_and_build(
    exported: Callable[..., Any],
    good_parts: list[NDArray[np.uint8]],
    tmp_path: Path,
    family: str,
    inputs: bool,
) -> None:
    bundle = exported(family, "affine").bundle
    profile = Inspector.open(bundle.path).enroll(good_parts, "ring")
    report = write_standalone(bundle, profile, tmp_path / "ring.onnx", inputs)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(report.path))
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    image = network.get_input(0)
    size = bundle.manifest.preprocessing.height
    assert (image.name, image.dtype, tuple(image.shape)) == (
        "image",
        trt.DataType.UINT8,
        (-1, size, size, 3),
    )
    assert network.num_inputs == 1 + inputs * (6 + (family == "vit"))
    image.shape = (1, size, size, 3)
    found = [network.get_output(index) for index in range(network.num_outputs)]
    outputs = {output.name: (output.dtype, tuple(output.shape)) for output in found}
    assert outputs == {
        "anomaly_map": (trt.DataType.FLOAT, (1, size, size)),
        "score": (trt.DataType.FLOAT, (1,)),
        "reject": (trt.DataType.BOOL, (1,)),
        **({"text_score": (trt.DataType.FLOAT, (1,))} if family == "vit" else {}),
    }
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    assert engine is not None
    assert engine.nbytes > 100_000
    plan = tmp_path / "ring.engine"
    plan.write_bytes(memoryview(engine))
    with pytest.raises(UsageError, match="got one of TensorRT-RTX"):
        write_triton_repository(
            bundle, profile, tmp_path, model_name="m", platform="tensorrt", plan=plan
        )
