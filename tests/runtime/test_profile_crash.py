"""SIGKILL in the midst of changes: the profile is always whole, and its history leads back.

A process of its own forks children, which enrol, extend and undo over and over with a quick
encoder. They are killed, at random moments or before their n-th file operation, and what they left
is examined.
"""

import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cff_runtime import Inspector

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

CHILD = """
import importlib.util, json, os, pickle, random, shutil, signal, sys, time
from pathlib import Path
import cv2, numpy as np
from cff_runtime import Inspector, Profile
from cff_runtime.errors import UsageError
from cff_runtime.profile_history import load_version, store_profile, undo, versions
from cff_runtime.storage import sha256_file

cv2.setNumThreads(0)
conftest, bundle_file, folder, mode, n_kills = sys.argv[1:]
spec = importlib.util.spec_from_file_location("fake_backend", conftest)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
bundle = pickle.loads(Path(bundle_file).read_bytes())
inspector = Inspector(bundle, module.NumpyBackend(bundle))
folder = Path(folder)
path = folder / "ring.safetensors"
rng = np.random.default_rng(0)
parts = list(rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))

def enroll():
    store_profile(path, inspector.enroll(parts[:2], "ring"))

def add():
    profile, before = load_version(path)
    store_profile(path, inspector.add_normals(profile, parts[2:]), before)

def take_back():
    try:
        undo(path)
    except UsageError:
        pass  # the first version

STEPS = (enroll, add, take_back, add, enroll, take_back, take_back, take_back)

def examine():
    if path.exists():
        Profile.load(path)
    for version in versions(path):
        assert sha256_file(version).startswith(version.name[5:17]), version
    copy = folder.with_name("examined")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    chain = 0
    while (copy / path.name).exists():
        profile = Profile.load(copy / path.name)
        before = profile.history[-1]["sha256_before"]
        if before is None:
            break
        undo(copy / path.name)
        assert sha256_file(copy / path.name) == before
        chain += 1
    return chain

def die_at(moment):
    left = [moment]
    def hook(event, arguments):
        if event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

enroll()
random.seed(1)
chains, killed = [], 0
for number in range(1, int(n_kills) + 1):
    if len(versions(path)) > 8:
        shutil.rmtree(folder)
        folder.mkdir()
        enroll()
    child = os.fork()
    if child == 0:
        if mode == "operation":
            die_at(number)
        while True:  # until it is killed, however fast the machine is
            for step in STEPS:
                step()
            if mode == "operation":
                os._exit(0)
    if mode == "moment":
        time.sleep(random.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    killed += os.WIFSIGNALED(status)
    chains.append(examine())
    if mode == "operation" and not os.WIFSIGNALED(status):
        break
print(json.dumps({"killed": killed, "kills": number, "longest": max(chains)}))
"""


@pytest.fixture
def kill_children(
    numpy_inspector: Callable[..., Inspector], run_python: RunPython, tmp_path: Path
) -> Callable[..., dict[str, int]]:
    def call(mode: str, n_kills: int) -> dict[str, int]:
        bundle = tmp_path / "bundle.pickle"
        bundle.write_bytes(pickle.dumps(numpy_inspector().bundle))
        folder = tmp_path / "profiles"
        folder.mkdir()
        conftest = Path(__file__).with_name("conftest.py")
        done = run_python(CHILD, conftest, bundle, folder, mode, n_kills)
        assert done.returncode == 0, done.stderr
        counts: dict[str, int] = json.loads(done.stdout)
        return counts

    return call


@pytest.mark.parametrize("n_kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_death_at_random_moments_leaves_a_whole_profile(
    n_kills: int, kill_children: Callable[..., dict[str, int]]
) -> None:
    counts = kill_children("moment", n_kills)

    assert counts["kills"] == n_kills
    assert counts["killed"] == n_kills
    assert counts["longest"] >= 1


def test_death_before_each_file_operation_leaves_a_whole_profile(
    kill_children: Callable[..., dict[str, int]],
) -> None:
    counts = kill_children("operation", 1000)

    assert counts["killed"] == counts["kills"] - 1 > 60  # the last child did all its work
    assert counts["longest"] >= 2
