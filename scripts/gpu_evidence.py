#!/usr/bin/env python3
"""Collect what runs on this box's GPU, for a file to commit: `make gpu-evidence`.

Runs every test marked `gpu`, builds engines, runs the gate and `cff-bench latency` through every
backend, and writes facts, outcomes and times to one JSON file. Every step runs in a process of its
own, so that one that dies is a result as well. Without a GPU nothing is written and the exit code
is 1; it is 1, too, if anything failed, and then the file says what.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cff_runtime.doctor.box import Box
from cff_runtime.doctor.probe import collect_facts
from cff_runtime.engines import find_gpu
from cff_runtime.storage import atomic_write

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks/results/gpu_evidence.json"
DEMO = ROOT / "build/demo"
STEP_TIMEOUT_S = 3600
_TOLD_CHARACTERS = 2000

# name -> (backend, options)
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "onnxruntime cpu": ("onnxruntime", {"provider": "cpu"}),
    "onnxruntime cuda": ("onnxruntime", {"provider": "cuda"}),
    "onnxruntime tensorrt": ("onnxruntime", {"provider": "tensorrt"}),
    "onnxruntime nv-tensorrt-rtx": ("onnxruntime", {"provider": "nv-tensorrt-rtx"}),
    "tensorrt": ("tensorrt", {"flavour": "tensorrt"}),
    "tensorrt, graph": ("tensorrt", {"flavour": "tensorrt", "graph": True}),
    "tensorrt-rtx": ("tensorrt", {"flavour": "tensorrt-rtx"}),
    "tensorrt-rtx, graph": ("tensorrt", {"flavour": "tensorrt-rtx", "graph": True}),
}

# runs in a process of its own: the gate and the bench of one backend, one JSON object to stdout
_WORKER = """
import json, sys
from pathlib import Path
from cff_bench.latency import LatencySettings, run_latency
from cff_runtime import Bundle
from cff_runtime.backends import open_backend
from cff_runtime.errors import CffError
from cff_runtime.verification import verify_bundle
folder, profile, backend, options, n = json.loads(sys.argv[1])
answer = {}
try:
    bundle = Bundle.open(Path(folder))
    opened = open_backend(backend, bundle, options)
    answer["gate"] = verify_bundle(bundle, opened).to_dict()
    if hasattr(opened, "close"):
        opened.close()
    settings = LatencySettings(Path(folder), Path(profile), None, n, 20, backend, options)
    answer["latency"] = run_latency(settings)
except CffError as error:
    answer["error"] = str(error)
sys.stdout.write("\\n" + json.dumps(answer))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Collect and write; return the exit code."""
    arguments = _parse(argv)
    gpu = find_gpu()
    if gpu is None:
        return _refuse(
            "evidence must be collected on a box with an NVIDIA GPU and its driver, none was "
            "found; nothing was written, see `cff-run doctor`"
        )
    profile = arguments.profile or next(iter(sorted(DEMO.glob("*.profile.safetensors"))), None)
    if profile is None or not arguments.bundle.is_dir():
        return _refuse(
            f"a bundle and a profile must be there, `{arguments.bundle}` and a profile beside it "
            "are not; run `make demo` first, or name them; nothing was written"
        )
    report: dict[str, Any] = {
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": _git("status", "--porcelain", "--untracked-files=no").splitlines(),
        "gpu": {"name": gpu.name, "compute_capability": gpu.compute_capability},
        "box": collect_facts(Box(), ROOT).to_dict(),
        "tests": run_tests(),
        "engines": {name: build(arguments.bundle, name) for name in ("tensorrt", "tensorrt-rtx")},
        "runs": {
            name: measure(arguments.bundle, profile, backend, options, arguments.n)
            for name, (backend, options) in RUNS.items()
        },
    }
    report["passed"] = has_passed(report)
    atomic_write(arguments.out, (json.dumps(report, indent=2) + "\n").encode())
    _tell(f"{arguments.out}  {summarize(report)}")
    return 0 if report["passed"] else 1


def run_tests() -> dict[str, Any]:
    """Run the tests marked `gpu` and return each one's outcome."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gpu.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={path}", "-rs"]
        done = _run([*command, str(ROOT / "tests")])
        outcomes = parse_outcomes(path.read_text()) if path.is_file() else []
    return {"exit_code": done["exit_code"], "told": done["told"], "outcomes": outcomes}


def parse_outcomes(xml: str) -> list[dict[str, Any]]:
    """Return name, outcome, seconds and reason of every test in pytest's JUnit report."""
    outcomes = []
    for case in ElementTree.fromstring(xml).iter("testcase"):  # our own file, a moment old
        outcome, reason = "passed", ""
        for kind in ("skipped", "failure", "error"):
            found = case.find(kind)
            if found is not None:
                outcome, reason = kind, found.get("message", "")[:_TOLD_CHARACTERS]
        name = f"{case.get('classname')}::{case.get('name')}"
        seconds = float(case.get("time", 0))
        outcomes.append({"test": name, "outcome": outcome, "seconds": seconds, "reason": reason})
    return outcomes


def build(bundle: Path, flavour: str) -> dict[str, Any]:
    """Build a bundle's engines with one TensorRT."""
    command = [sys.executable, "-m", "cff_runtime.cli", "engine", str(bundle)]
    done = _run([*command, "--flavour", flavour, "--json"])
    stdout = done.pop("stdout")
    return {**done, **json.loads(stdout)} if done["exit_code"] == 0 else done


def measure(
    bundle: Path, profile: Path, backend: str, options: dict[str, Any], n: int
) -> dict[str, Any]:
    """Run the gate and the bench of one backend."""
    task = json.dumps([str(bundle), str(profile), backend, options, n])
    done = _run([sys.executable, "-c", _WORKER, task])
    try:
        answer = json.loads(str(done["stdout"]).splitlines()[-1])
    except (IndexError, ValueError):
        answer = {"error": f"the process ended with {done['exit_code']}: {done['told']}"}
    return {"backend": backend, "options": options, "seconds": done["seconds"], **answer}


def has_passed(report: dict[str, Any]) -> bool:
    """Say whether no test failed, one ran, and a backend passed the gate on the GPU."""
    outcomes = [entry["outcome"] for entry in report["tests"]["outcomes"]]
    on_gpu = [run for name, run in report["runs"].items() if name != "onnxruntime cpu"]
    gates = [run["gate"]["passed"] for run in on_gpu if "gate" in run]
    failed = "failure" in outcomes or "error" in outcomes
    return "passed" in outcomes and not failed and bool(gates) and all(gates)


def summarize(report: dict[str, Any]) -> str:
    """Return one line for people."""
    outcomes = [entry["outcome"] for entry in report["tests"]["outcomes"]]
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in dict.fromkeys(outcomes))
    ran = [name for name, run in report["runs"].items() if "latency" in run]
    verdict = "passed" if report["passed"] else "FAILED"
    return f"{verdict}: tests {counts or 'none'}; ran {', '.join(ran) or 'nothing'}"


def _run(command: Sequence[str]) -> dict[str, Any]:
    started = time.monotonic()
    parts = [str(ROOT / part) for part in (".", "runtime", "export", "benchmarks")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(parts)}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=STEP_TIMEOUT_S,
        )
        code, stdout, stderr = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        code, stdout, stderr = -1, "", f"took longer than {STEP_TIMEOUT_S} s"
    told = (stderr.strip() or stdout.strip())[-_TOLD_CHARACTERS:]
    seconds = round(time.monotonic() - started, 1)
    return {"exit_code": code, "seconds": seconds, "told": told, "stdout": stdout}


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--bundle", type=Path, default=DEMO / "bundle", help="build/demo/bundle")
    parser.add_argument("--profile", type=Path, help="of that bundle; the demo's if not given")
    parser.add_argument("-n", type=int, default=200, help="timed inspections of a backend (200)")
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write")
    return parser.parse_args(argv)


def _refuse(reason: str) -> int:
    sys.stderr.write(f"error: {reason}\n")
    return 1


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
