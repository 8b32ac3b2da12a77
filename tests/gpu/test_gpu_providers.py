"""ONNX Runtime's providers on a real GPU."""

from typing import Any

import pytest

from cff_runtime import Bundle
from cff_runtime.backends import open_backend
from cff_runtime.backends.onnxruntime_providers import prepare_provider
from cff_runtime.errors import BackendError
from cff_runtime.verification import verify_bundle

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["cuda", "tensorrt", "nv-tensorrt-rtx"])
def provider(request: pytest.FixtureRequest) -> str:
    try:
        prepare_provider(request.param)
    except BackendError as error:
        pytest.skip(str(error))
    return str(request.param)


def test_the_gate_passes(provider: str, lite_bundle: Bundle) -> None:
    report = verify_bundle(
        lite_bundle, open_backend("onnxruntime", lite_bundle, {"provider": provider})
    )

    assert report.passed, report.failures


def test_an_option_that_there_is_not_is_refused(provider: str, lite_bundle: Bundle) -> None:
    options: dict[str, Any] = {"provider": provider, "provider_options": {"no_such_option": "1"}}

    with pytest.raises(BackendError, match="cannot load"):
        open_backend("onnxruntime", lite_bundle, options)
