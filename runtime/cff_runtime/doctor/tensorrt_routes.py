"""Whether engines of either flavour of TensorRT can be built and run on a box."""

from cff_runtime.doctor.facts import Facts
from cff_runtime.doctor.matrix import JetPack, Matrix, TensorRt, at_least, release_numbers
from cff_runtime.doctor.mending import (
    Verdict,
    after,
    cannot,
    judge_driver,
    mend_driver,
    newest_cuda_major,
    works,
)

# flavour -> names of its Python packages
FLAVOURS = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
_UNSEEN = "nothing found against it; no engine was run by this project"


def tensorrt_release(facts: Facts, flavour: str) -> str | None:
    """Return the release of the Python package of a flavour, None if it is not installed."""
    return next((facts.packages[n] for n in FLAVOURS[flavour] if n in facts.packages), None)


def running_release(facts: Facts, flavour: str) -> str | None:
    """Return the release that would run: of the Python package, else of the Debian packages."""
    release = tensorrt_release(facts, flavour)
    if release is None and flavour == "tensorrt":
        return facts.system_tensorrt.value
    return release


def judge_flavour(facts: Facts, matrix: Matrix, flavour: str) -> Verdict:
    """Say whether engines of a flavour can be built and run here."""
    release = tensorrt_release(facts, flavour)
    row = matrix.tensorrt_of(flavour, release)
    jetpack = matrix.jetpack_of(facts.l4t.value, facts.jetpack.value)
    if row is not None and facts.is_jetson:
        refused = _refuse_on_jetson(facts, row, jetpack, release)
        if refused is not None:
            return refused
    if facts.gpu is None:
        reason = judge_driver(facts, matrix)
        if flavour == "tensorrt-rtx" and release and reason.status == "cannot":
            return cannot(f"{reason.reason}; engines for other GPUs can be built here")
        return reason
    if row is not None:
        refused = _refuse_gpu(facts, row)
        if refused is not None:
            return refused
    if release is None:
        return _install(facts, matrix, flavour, jetpack)
    foreign = _replace_foreign_cuda(facts, matrix, flavour)
    if foreign is not None:
        return foreign
    if row is None:
        return works(f"{flavour} {release} is not in the matrix; {_UNSEEN}")
    driver = facts.driver.value
    if row.driver and driver and not facts.is_jetson and not at_least(driver, row.driver):
        return cannot(f"{flavour} {release} needs driver {row.driver} or newer, this is {driver}")
    if not {"pycuda", "cuda-python"} & set(facts.packages):
        return after("engines need pycuda or cuda-python", _cuda_bindings(facts, matrix))
    return works(_UNSEEN)


def _refuse_on_jetson(
    facts: Facts, row: TensorRt, jetpack: JetPack | None, release: str | None
) -> Verdict | None:
    if row.flavour == "tensorrt-rtx":
        return cannot(f"TensorRT-RTX is not for a Jetson ({row.sources[-1]})")
    if release is None or not row.jetpack_from:
        return None
    have = facts.jetpack.value or (jetpack.jetpack if jetpack is not None else None)
    if row.jetpack_from != "none" and have is not None and at_least(have, row.jetpack_from):
        return None
    on = f"JetPack {'.'.join(map(str, release_numbers(have)))}" if have else "this JetPack"
    oldest = "" if row.jetpack_from == "none" else f", only from {row.jetpack_from} on"
    reason = f"TensorRT {release} does not support {on}{oldest} ({row.sources[0]})"
    return after(reason, "pip uninstall -y tensorrt")


def _refuse_gpu(facts: Facts, row: TensorRt) -> Verdict | None:
    capability = facts.gpu.compute_capability if facts.gpu else None
    if capability is None:
        return None
    name = f"{row.flavour} {row.first} to {row.last}"
    if row.compute_capabilities and capability not in row.compute_capabilities:
        known = ", ".join(row.compute_capabilities)
        return cannot(f"{name} is for compute capability {known}; this GPU has {capability}")
    oldest = row.compute_capability_from
    if oldest and not at_least(capability, oldest):
        return cannot(
            f"{name} needs compute capability {oldest} or newer, this GPU has {capability}"
        )
    return None


def _replace_foreign_cuda(facts: Facts, matrix: Matrix, flavour: str) -> Verdict | None:
    """Refuse a package that is built for a newer CUDA than the driver runs."""
    cuda_major = newest_cuda_major(facts, matrix)
    names = [name for name in FLAVOURS[flavour] if name in facts.packages]
    built = [int(name.rpartition("-cu")[2]) for name in names if "-cu" in name]
    if cuda_major is None or not built or max(built) <= cuda_major:
        return None
    reason = f"{flavour} is built for CUDA {max(built)}, the driver runs CUDA {cuda_major}"
    if cuda_major < 12:
        return mend_driver(facts, matrix, 12)
    return after(reason, f"pip uninstall -y {' '.join(names)} && pip install {flavour}-cu12")


def _install(facts: Facts, matrix: Matrix, flavour: str, jetpack: JetPack | None) -> Verdict:
    if facts.is_jetson:
        return _install_on_jetson(facts, jetpack)
    reason = f"the Python package of {flavour} is not installed"
    cuda_major = newest_cuda_major(facts, matrix)
    if cuda_major is None or cuda_major < 12:
        return mend_driver(facts, matrix, 12)
    if cuda_major >= 13:
        return after(reason, f'pip install "cff-edge[{flavour}]"')
    if flavour == "tensorrt":
        return after(f"{reason}; the driver runs CUDA 12", "pip install tensorrt-cu12 pycuda")
    packages = 'tensorrt-rtx-cu12 "cuda-python>=12.6,<13"'
    return after(f"{reason}; the driver runs CUDA 12", f"pip install {packages}")


def _install_on_jetson(facts: Facts, jetpack: JetPack | None) -> Verdict:
    """JetPack brings TensorRT as Debian packages, for the Python of its Ubuntu only."""
    python = jetpack.python if jetpack is not None else None
    if python is not None and not facts.python_version.startswith(f"{python}."):
        return cannot(f"JetPack's TensorRT is for Python {python}, this is {facts.python_version}")
    if facts.system_tensorrt.value is None:
        return after("JetPack's TensorRT is not installed", "sudo apt-get install nvidia-jetpack")
    if not facts.system_tensorrt_python:
        return after(
            "TensorRT is installed without its Python package",
            "sudo apt-get install python3-libnvinfer",
        )
    if facts.in_virtual_environment:
        return after(
            "this virtual environment does not see JetPack's TensorRT",
            "python3 -m venv --system-site-packages .venv",
        )
    return cannot("JetPack's TensorRT is installed, but this Python does not find it")


def _cuda_bindings(facts: Facts, matrix: Matrix) -> str:
    major = newest_cuda_major(facts, matrix)
    if major is not None and major < 13:
        return f'pip install "cuda-python>={major},<{major + 1}"'
    return "pip install cuda-python"
