"""The command that mends a mismatch, for what was seen on this box and nothing else."""

import re
import shlex
from dataclasses import dataclass

from cff_runtime.doctor.facts import Facts
from cff_runtime.doctor.matrix import Matrix, OnnxRuntimeBuild, at_least, release_numbers

OPEN_ERROR = re.compile(r"(lib[\w+-]+\.so(?:\.\d+)*): cannot open shared object file")


@dataclass(frozen=True)
class Verdict:
    """Whether something works, why, and the command that would make it work.

    `status` is ``works``, ``after`` (the command) or ``cannot``.
    """

    status: str
    reason: str
    command: str | None = None


def works(reason: str) -> Verdict:
    """Return the verdict that something works."""
    return Verdict("works", reason)


def after(reason: str, command: str) -> Verdict:
    """Return the verdict that something would work after a command."""
    return Verdict("after", reason, command)


def cannot(reason: str) -> Verdict:
    """Return the verdict that nothing here makes it work."""
    return Verdict("cannot", reason)


def mend_onnxruntime_cpu(facts: Facts) -> Verdict:
    """Say how ONNX Runtime comes onto a box where it is missing or broken."""
    if facts.onnxruntime.reason == "not found":
        return after("ONNX Runtime is not installed", 'pip install "cff-edge[cpu]"')
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in facts.packages]
    reason = f"ONNX Runtime {facts.onnxruntime.reason}"
    if len(installed) == 1:
        name = installed[0]
        again = f"{name}=={facts.packages[name]}"
        return after(reason, f"pip install --force-reinstall --no-deps {again}")
    return after(reason, f'{_uninstall(facts)}pip install "cff-edge[cpu]"')


def mend_onnxruntime_gpu(facts: Facts, matrix: Matrix) -> Verdict:
    """Say which package of ONNX Runtime brings the CUDA provider to this box."""
    if facts.is_jetson:
        return _mend_onnxruntime_jetson(facts, matrix)
    cuda_major = newest_cuda_major(facts, matrix)
    offered = _offered(facts, matrix)
    if not offered:
        return cannot(f"no onnxruntime-gpu is known for {_this_python(facts)}")
    if cuda_major is None:
        return cannot("the CUDA version of the driver could not be read")
    fitting = [row for row in offered if row.cuda <= cuda_major]
    if not fitting:
        return mend_driver(facts, matrix, offered[-1].cuda)
    reason = "the installed ONNX Runtime has no CUDA provider"
    if fitting[-1] is offered[-1]:  # what pip takes by itself
        return after(reason, f'{_uninstall(facts)}pip install "cff-edge[gpu]"')
    newer = offered[offered.index(fitting[-1]) + 1]
    wanted = f"onnxruntime-gpu>={fitting[-1].first},<{newer.first}"
    return after(
        f"{reason}, and {newer.first} and newer are built for CUDA {newer.cuda}",
        f'{_uninstall(facts)}pip install "{wanted}"',
    )


def _offered(facts: Facts, matrix: Matrix) -> list[OnnxRuntimeBuild]:
    """Return the releases whose packages this Python and processor can install, newest last."""
    return [
        row
        for row in matrix.onnxruntime
        if facts.architecture in row.packages
        and row.python_from is not None
        and at_least(facts.python_version, row.python_from)
    ]


def _mend_onnxruntime_jetson(facts: Facts, matrix: Matrix) -> Verdict:
    row = matrix.jetpack_of(facts.l4t.value, facts.jetpack.value)
    major = release_numbers(row.jetpack)[0] if row is not None else None
    reason = "the installed ONNX Runtime has no CUDA provider"
    for index in matrix.indexes:
        if index.jetpack_major == major and facts.python_version.startswith(f"{index.python}."):
            return after(
                f"{reason}; the packages on PyPI are not for JetPack {major}",
                f"{_uninstall(facts)}pip install onnxruntime-gpu --extra-index-url {index.url}",
            )
    newest = matrix.onnxruntime[-1]
    cuda = facts.cuda_driver.value
    if cuda and at_least(cuda, str(newest.cuda)) and newest in _offered(facts, matrix):
        return after(
            f"{reason}; whether the package on PyPI holds code for this GPU was not read",
            f'{_uninstall(facts)}pip install "cff-edge[gpu]"',
        )
    name = f"JetPack {row.jetpack}" if row is not None else "this release of Jetson Linux"
    return cannot(f"no onnxruntime-gpu is known for {name} with {_this_python(facts)}")


def _this_python(facts: Facts) -> str:
    return f"Python {facts.python_version} on {facts.architecture}"


def _uninstall(facts: Facts) -> str:
    """Return the start of a command that first removes what would be in the way.

    `onnxruntime` and `onnxruntime-gpu` are one module: removing one of two breaks the other.
    """
    there = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in facts.packages]
    return f"pip uninstall -y {' '.join(there)} && " if there else ""


def newest_cuda_major(facts: Facts, matrix: Matrix) -> int | None:
    """Return the newest CUDA major version that the driver runs."""
    if facts.cuda_driver.value is not None:
        return release_numbers(facts.cuda_driver.value)[0]
    driver = facts.driver.value
    rows = [row.cuda for row in matrix.cuda_driver if driver and at_least(driver, row.driver)]
    return max(rows, default=None)


def judge_driver(facts: Facts, matrix: Matrix) -> Verdict:
    """Say why no GPU can be used, and what would mend that."""
    fails = facts.gpus.reason.startswith("the driver library")
    if not (facts.pci_gpus or facts.is_jetson or fails):
        return cannot("no NVIDIA GPU was seen")
    if "driver/library version mismatch" in facts.nvidia_smi.reason.lower():
        return after("the driver was updated and the old one is still loaded", "sudo reboot")
    if fails:
        return cannot(f"{facts.gpus.reason}; look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES")
    if facts.container.value is not None:
        return cannot(
            "a GPU was seen, but no driver inside this container; start the container with "
            "`--gpus all`, or with `--runtime nvidia` on a Jetson"
        )
    if facts.is_jetson:
        return after("JetPack's CUDA driver was not found", "sudo apt-get install nvidia-jetpack")
    newest = matrix.cuda_driver[-1]
    return mend_driver(facts, matrix, newest.cuda)


def mend_driver(facts: Facts, matrix: Matrix, cuda_major: int) -> Verdict:
    """Say how a driver for a CUDA major version comes onto the box."""
    oldest = matrix.oldest_driver(cuda_major) or "newer"
    have = facts.driver.value
    seen = f"the NVIDIA driver is {have}" if have else "an NVIDIA GPU was seen, but no driver"
    reason = f"{seen}; CUDA {cuda_major} needs {oldest} or newer"
    if facts.container.value is not None:
        return cannot(f"{reason}, installed on the host of this container")
    if facts.distribution.value == "ubuntu":
        branch = release_numbers(oldest)[0]
        return after(reason, f"sudo apt-get install nvidia-driver-{branch} && sudo reboot")
    return cannot(f"{reason}; install it as your distribution says")


def mend_library(facts: Facts, matrix: Matrix, error: str) -> Verdict:
    """Say how a library comes onto the box that a provider misses."""
    found = OPEN_ERROR.search(error)
    runtime = facts.onnxruntime.value
    if found is None or runtime is None:
        return cannot(f"its library cannot be loaded: {error}")
    library = found[1]
    reason = f"`{library}` was not found"
    if library in runtime.library_folders:
        folders = sorted(set(runtime.library_folders.values()))
        value = shlex.quote(":".join(folders))
        return after(
            f"{reason} by the loader, though a Python package holds it",
            f"export LD_LIBRARY_PATH={value}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}",
        )
    if library == "libcuda.so.1":
        return judge_driver(facts, matrix)
    if facts.is_jetson:
        return after(reason, "sudo apt-get install nvidia-jetpack")
    build = matrix.onnxruntime_of(runtime.version)
    if build is None:
        return cannot(f"{reason}, and ONNX Runtime {runtime.version} is not in the matrix")
    if library.startswith(("libnvinfer", "libnvonnxparser")):
        major = int(library.rpartition(".")[2])
        package = f"tensorrt-cu{build.cuda}>={major},<{major + 1}"
        return after(f"{reason}: TensorRT {major}", f'pip install "{package}"')
    return after(reason, f'pip install "onnxruntime-gpu[cuda,cudnn]=={runtime.version}"')
