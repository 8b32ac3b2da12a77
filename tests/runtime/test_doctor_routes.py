"""What will work on a box, and the command that mends it: pure functions over facts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cff_runtime.backends import BACKENDS
from cff_runtime.doctor.box import Reading
from cff_runtime.doctor.facts import Facts, Gpu, OnnxRuntime
from cff_runtime.doctor.matrix import load_matrix
from cff_runtime.doctor.needs import BundleNeeds, PrecisionNeeds
from cff_runtime.doctor.routes import PROVIDERS, Route, find_routes

NOTHING: Reading[Any] = Reading.missing()
GIB = 1 << 30
CPU_ONLY = OnnxRuntime("1.31.1", ("CPUExecutionProvider",), {}, {})
GPU_BUILD = OnnxRuntime(
    "1.31.1",
    ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    {"cuda": "", "tensorrt": ""},
    {},
)
SERVER = Facts(
    os_name=Reading("Ubuntu 24.04"),
    distribution=Reading("ubuntu"),
    kernel=NOTHING,
    architecture="x86_64",
    container=NOTHING,
    board=NOTHING,
    cpu=NOTHING,
    cpu_cores=Reading(8),
    cpu_governor=NOTHING,
    memory_bytes=Reading(32 * GIB),
    memory_available_bytes=Reading(30 * GIB),
    disk_free_bytes=Reading(100 * GIB),
    l4t=NOTHING,
    jetpack=NOTHING,
    power_mode=NOTHING,
    power_modes=NOTHING,
    pci_gpus=0,
    nvidia_smi=NOTHING,
    driver=NOTHING,
    cuda_driver=NOTHING,
    cuda_toolkit=NOTHING,
    gpus=NOTHING,
    system_tensorrt=NOTHING,
    system_tensorrt_python=False,
    python_version="3.12.3",
    in_virtual_environment=False,
    packages={"onnxruntime": "1.31.1"},
    onnxruntime=Reading(CPU_ONLY),
)
DESKTOP = replace(
    SERVER,
    pci_gpus=1,
    nvidia_smi=Reading("works"),
    driver=Reading("580.95.05"),
    cuda_driver=Reading("13.0"),
    gpus=Reading((Gpu("NVIDIA GeForce RTX 4090", "8.9", 24 * GIB),)),
)
ORIN = replace(
    SERVER,
    architecture="aarch64",
    python_version="3.10.12",
    l4t=Reading("36.4.3"),
    jetpack=Reading("6.2+b77"),
    driver=Reading("540.4.0"),
    cuda_driver=Reading("12.6"),
    gpus=Reading((Gpu("Orin", "8.7", 7 * GIB),)),
    system_tensorrt=Reading("10.3.0.30"),
    system_tensorrt_python=True,
    packages={"onnxruntime": "1.23.2", "tensorrt": "10.3.0", "pycuda": "2024.1"},
    onnxruntime=Reading(replace(CPU_ONLY, version="1.23.2")),
)
EMBEDDED = BundleNeeds(
    path="my bundle",
    id="0" * 64,
    schema_version=4,
    backbone="efficientnet-lite0",
    is_transformer=False,
    height=256,
    width=256,
    precisions=(
        PrecisionNeeds("fp32", "encoder.fp32.onnx", 13 << 20, ()),
        PrecisionNeeds("fp16", "encoder.fp16.onnx", 7 << 20, ()),
    ),
    bank_bytes_per_reference=1 << 20,
    workspace_bytes=30 << 20,
)
CLIP = replace(EMBEDDED, backbone="open_clip:ViT-L-14", is_transformer=True)

Judge = Callable[..., Route]


@pytest.fixture
def judge() -> Judge:
    """Return ``judge(facts, target, precision="fp32", needs=None)``: the one route asked for."""

    def find(
        facts: Facts,
        target: str,
        precision: str = "fp32",
        needs: BundleNeeds | None = None,
        backend: str = "onnxruntime",
    ) -> Route:
        routes = find_routes(facts, needs, load_matrix())
        key = (backend, target, precision)
        (found,) = [r for r in routes if (r.backend, r.target, r.precision) == key]
        return found

    return find


def test_the_providers_are_those_of_the_backend() -> None:
    backend = pytest.importorskip("cff_runtime.backends.onnxruntime")

    assert {name: provider for name, (provider, _) in backend.PROVIDERS.items()} == PROVIDERS


def test_a_server_without_gpu_runs_every_precision_on_the_cpu(judge: Judge) -> None:
    for precision in ("fp32", "fp16", "int8", "int8-qdq"):
        assert judge(SERVER, "cpu", precision).status == "works"
    assert "computes fp16 in fp32" in judge(SERVER, "cpu", "fp16").reason
    assert judge(SERVER, "cuda").reason == "no NVIDIA GPU was seen"
    assert judge(SERVER, "cuda").command is None


def test_a_missing_onnxruntime_is_installed(judge: Judge) -> None:
    bare = replace(SERVER, onnxruntime=NOTHING, packages={})

    assert judge(bare, "cpu").command == 'pip install "cff-edge[cpu]"'
    assert judge(bare, "cpu").status == "after"


def test_a_broken_onnxruntime_is_installed_again(judge: Judge) -> None:
    broken = replace(SERVER, onnxruntime=Reading.missing("cannot be imported: ImportError: x"))

    route = judge(broken, "cpu")

    assert route.command == "pip install --force-reinstall --no-deps onnxruntime==1.31.1"
    assert "ImportError" in route.reason


# CUDA of the driver, Python -> what brings the CUDA provider; from the metadata of the packages:
# 1.27 and newer are for CUDA 13 and Python 3.11, 1.23.2 is the newest for Python 3.10
@pytest.mark.parametrize(
    ("cuda", "python", "command"),
    [
        ("13.0", "3.12.3", 'pip uninstall -y onnxruntime && pip install "cff-edge[gpu]"'),
        (
            "12.2",
            "3.12.3",
            'pip uninstall -y onnxruntime && pip install "onnxruntime-gpu>=1.24,<1.27"',
        ),
        ("12.2", "3.10.12", 'pip uninstall -y onnxruntime && pip install "cff-edge[gpu]"'),
        ("11.4", "3.12.3", "sudo apt-get install nvidia-driver-580 && sudo reboot"),
    ],
)
def test_the_gpu_package_fits_driver_and_python(
    judge: Judge, cuda: str, python: str, command: str
) -> None:
    box = replace(DESKTOP, cuda_driver=Reading(cuda), python_version=python)

    route = judge(box, "cuda")

    assert (route.status, route.command) == ("after", command)


def test_a_driver_too_old_for_the_installed_package(judge: Judge) -> None:
    old = replace(
        DESKTOP,
        driver=Reading("535.183.01"),
        cuda_driver=Reading("12.2"),
        packages={"onnxruntime-gpu": "1.31.1"},
        onnxruntime=Reading(GPU_BUILD),
    )

    route = judge(old, "cuda")

    wanted = 'pip uninstall -y onnxruntime-gpu && pip install "onnxruntime-gpu>=1.24,<1.27"'
    assert (route.status, route.command) == ("after", wanted)
    assert "built for CUDA 13, the driver runs CUDA up to 12.2" in route.reason


MISSING = "{}: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("provider", "library", "command"),
    [
        ("cuda", "libcudnn.so.9", 'pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1"'),
        ("tensorrt", "libnvinfer.so.10", 'pip install "tensorrt-cu13>=10,<11"'),
    ],
)
def test_a_missing_library_is_installed(
    judge: Judge, provider: str, library: str, command: str
) -> None:
    runtime = replace(GPU_BUILD, load_errors={provider: MISSING.format(library)})
    box = replace(DESKTOP, onnxruntime=Reading(runtime))

    route = judge(box, provider)

    assert (route.status, route.command) == ("after", command)
    assert library in route.reason


def test_a_library_in_a_python_package_is_put_on_the_loaders_path(judge: Judge) -> None:
    folders = {"libcudnn.so.9": "/a b/cudnn/lib", "libcudart.so.13": "/a b/cu13/lib"}
    error = {"cuda": MISSING.format("libcudnn.so.9")}
    runtime = replace(GPU_BUILD, load_errors=error, library_folders=folders)

    route = judge(replace(DESKTOP, onnxruntime=Reading(runtime)), "cuda")

    assert route.command == (
        "export LD_LIBRARY_PATH='/a b/cu13/lib:/a b/cudnn/lib'${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    )


def test_a_gpu_that_nothing_speaks_against(judge: Judge) -> None:
    box = replace(DESKTOP, onnxruntime=Reading(GPU_BUILD))

    assert judge(box, "cuda", "fp16").status == "works"
    assert "not run on a GPU" in judge(box, "cuda", "fp16").reason
    assert judge(box, "cuda", "int8").status == "cannot"
    assert judge(box, "tensorrt", "int8-qdq").status == "works"
    assert judge(box, "nv-tensorrt-rtx").status == "cannot"


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"distribution": Reading("ubuntu")}, "sudo apt-get install nvidia-driver-580"),
        ({"distribution": Reading("debian")}, None),
        ({"container": Reading("docker")}, None),
        ({"nvidia_smi": Reading.missing("failed: Driver/library version mismatch")}, "sudo reboot"),
    ],
)
def test_a_gpu_without_driver(judge: Judge, changes: dict[str, Any], command: str | None) -> None:
    route = judge(replace(SERVER, pci_gpus=1, **changes), "cuda")

    assert (route.command or "").startswith(command or "")
    assert (route.status == "after") == (command is not None)
    if "container" in changes:
        assert "--gpus all" in route.reason


def test_a_driver_that_hides_the_gpu_is_not_installed_again(judge: Judge) -> None:
    hidden = Reading.missing("the driver library fails with status 100")

    route = judge(replace(DESKTOP, gpus=hidden), "cuda")

    assert (route.status, route.command) == ("cannot", None)
    assert "CUDA_VISIBLE_DEVICES" in route.reason


# ---- Jetson


def test_jetpack_6_takes_onnxruntime_from_nvidias_index(judge: Judge) -> None:
    assert judge(ORIN, "cuda").command == (
        "pip uninstall -y onnxruntime && pip install onnxruntime-gpu "
        "--extra-index-url https://pypi.jetson-ai-lab.io/jp6/cu126"
    )


def test_jetpack_5_has_no_onnxruntime_and_another_python(judge: Judge) -> None:
    xavier = replace(ORIN, l4t=Reading("35.4.1"), jetpack=Reading("5.1.2"), packages={})

    assert judge(xavier, "cuda").status == "cannot"
    route = judge(xavier, "tensorrt", backend="engine")
    assert route.status == "cannot"
    assert route.reason == "JetPack's TensorRT is for Python 3.8, this is 3.10.12"


def test_jetpack_brings_tensorrt_to_its_own_python(judge: Judge) -> None:
    def command(**changes: Any) -> str | None:
        box = replace(ORIN, packages={"pycuda": "2024.1"}, **changes)
        return judge(box, "tensorrt", backend="engine").command

    assert command(in_virtual_environment=True) == "python3 -m venv --system-site-packages .venv"
    assert command(system_tensorrt_python=False) == "sudo apt-get install python3-libnvinfer"
    assert command(system_tensorrt=NOTHING) == "sudo apt-get install nvidia-jetpack"


@pytest.mark.parametrize(
    ("release", "jetpack", "status"),
    [
        ("11.3.0.99", "6.2+b77", "after"),
        ("11.4.1.2", "6.2+b77", "after"),
        ("11.4.1.2", "7.2.2", "works"),
        ("11.3.0.99", "7.2.2", "after"),
        ("10.16.1", "7.2", "works"),
    ],
)
def test_which_tensorrt_is_for_which_jetpack(
    judge: Judge, release: str, jetpack: str, status: str
) -> None:
    packages = {"tensorrt": release, "pycuda": "2024.1"}
    box = replace(ORIN, l4t=Reading("39.9"), jetpack=Reading(jetpack), packages=packages)

    route = judge(box, "tensorrt", backend="engine")

    assert route.status == status
    if status == "after":
        assert route.command == "pip uninstall -y tensorrt"
        assert "https://docs.nvidia.com" in route.reason


def test_tensorrt_rtx_is_not_for_a_jetson(judge: Judge) -> None:
    assert judge(ORIN, "tensorrt-rtx", backend="engine").status == "cannot"


# ---- engines


@pytest.mark.parametrize(
    ("cuda", "flavour", "command"),
    [
        ("13.0", "tensorrt-rtx", 'pip install "cff-edge[tensorrt-rtx]"'),
        ("12.4", "tensorrt-rtx", 'pip install tensorrt-rtx-cu12 "cuda-python>=12.6,<13"'),
        ("13.0", "tensorrt", 'pip install "cff-edge[tensorrt]"'),
        ("12.4", "tensorrt", "pip install tensorrt-cu12 pycuda"),
    ],
)
def test_a_missing_tensorrt_is_installed(
    judge: Judge, cuda: str, flavour: str, command: str
) -> None:
    box = replace(DESKTOP, cuda_driver=Reading(cuda))

    assert judge(box, flavour, backend="engine").command == command


def test_a_tensorrt_for_a_newer_cuda_is_replaced(judge: Judge) -> None:
    packages = {"tensorrt": "11.4.0.106", "tensorrt-cu13": "11.4.0.106", "pycuda": "2024.1"}
    box = replace(DESKTOP, cuda_driver=Reading("12.4"), packages=packages)

    assert judge(box, "tensorrt", backend="engine").command == (
        "pip uninstall -y tensorrt tensorrt-cu13 && pip install tensorrt-cu12"
    )


@pytest.mark.parametrize(("capability", "status"), [("9.0", "cannot"), ("12.0", "works")])
def test_tensorrt_rtx_knows_its_gpus(judge: Judge, capability: str, status: str) -> None:
    box = replace(
        DESKTOP,
        gpus=Reading((Gpu("G", capability, 80 * GIB),)),
        packages={"tensorrt-rtx-cu13": "1.7.1.116", "cuda-python": "13.4.4"},
    )

    assert judge(box, "tensorrt-rtx", backend="engine").status == status


def test_engines_need_bindings_of_cuda(judge: Judge) -> None:
    box = replace(DESKTOP, packages={"tensorrt-rtx-cu13": "1.7.1.116"})

    assert judge(box, "tensorrt-rtx", backend="engine").command == "pip install cuda-python"


def test_reports_of_wrong_results_are_heard(judge: Judge) -> None:
    runtime = OnnxRuntime("1.23.2", GPU_BUILD.providers, {}, {})
    box = replace(ORIN, onnxruntime=Reading(runtime))

    route = judge(box, "tensorrt", "fp16", CLIP)

    assert route.command == "cff-run verify 'my bundle' --provider tensorrt --precision fp16"
    assert "issues/4723" in route.reason
    assert judge(box, "tensorrt", "fp16", EMBEDDED).status == "works"
    engine = judge(box, "tensorrt", "fp16", CLIP, backend="engine")
    assert engine.status == ("after" if "tensorrt" in BACKENDS else "cannot")


# ---- memory


def test_a_bundle_that_does_not_fit(judge: Judge) -> None:
    small = replace(SERVER, memory_available_bytes=Reading(100 << 20))
    tiny_gpu = replace(
        DESKTOP, onnxruntime=Reading(GPU_BUILD), gpus=Reading((Gpu("G", "8.9", 40 << 20),))
    )

    # 45 + 1.5 * 13 + 30 + 4 * 1 MiB
    assert judge(small, "cpu", needs=replace(EMBEDDED, workspace_bytes=32 << 20)).reason == (
        "needs about 100 MiB and 100 MiB of memory is free"
    )
    assert judge(small, "cpu", needs=EMBEDDED).status == "works"
    assert judge(tiny_gpu, "cuda", needs=EMBEDDED).status == "cannot"
    assert "of memory is on the GPU" in judge(tiny_gpu, "cuda", needs=EMBEDDED).reason
