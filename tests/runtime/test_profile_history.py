"""Earlier versions of a profile: kept, found by hash, put back byte for byte."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cff_runtime import Profile
from cff_runtime.errors import ProfileError, StorageError, UsageError
from cff_runtime.profile_history import (
    history_folder,
    load_version,
    previous_version,
    record,
    store_profile,
    undo,
    versions,
)
from cff_runtime.storage import sha256_file

Store = Callable[..., bytes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring.safetensors"


@pytest.fixture
def store(lite_profile: Profile, path: Path) -> Store:
    """Return ``store(product)``, which stores a profile over what is there; gives its bytes."""

    def call(product: str) -> bytes:
        store_profile(path, record(replace(lite_profile, product=product), "test"))
        return path.read_bytes()

    return call


def test_a_first_profile_has_no_history(store: Store, path: Path) -> None:
    store("one")

    assert list(path.parent.iterdir()) == [path]
    assert Profile.load(path).history[-1]["sha256_before"] is None
    with pytest.raises(UsageError, match="this is its first"):
        undo(path)


def test_every_change_is_taken_back_byte_for_byte(store: Store, path: Path) -> None:
    written = [store(name) for name in ("one", "two", "three", "four")]
    assert len(set(written)) == 4
    assert [version.read_bytes() for version in versions(path)] == written[:3]

    for before in reversed(written[:3]):
        version = undo(path)

        assert path.read_bytes() == before
        assert not version.exists()
    assert not history_folder(path).exists()
    with pytest.raises(UsageError, match="this is its first"):
        undo(path)


def test_the_entry_names_the_file_that_was_replaced(store: Store, path: Path) -> None:
    store("one")
    before = sha256_file(path)
    store("two")

    entry = Profile.load(path).history[-1]

    assert entry["sha256_before"] == before and entry["action"] == "test"
    assert entry["at"].endswith("+00:00")
    assert versions(path)[0].name == f"0001-{before[:12]}.safetensors"
    assert previous_version(path) == versions(path)[0]


def test_a_change_after_undo_follows_the_restored_file(store: Store, path: Path) -> None:
    one, _ = store("one"), store("two")
    undo(path)
    store("three")

    undo(path)

    assert path.read_bytes() == one


def test_a_file_that_changed_meanwhile_is_not_overwritten(store: Store, path: Path) -> None:
    store("one")
    profile, before = load_version(path)
    other = store("two")

    with pytest.raises(StorageError, match="must not change while it is worked on"):
        store_profile(path, record(profile, "add-normals"), before)

    assert path.read_bytes() == other


def test_what_was_no_profile_is_kept_too(store: Store, path: Path) -> None:
    path.write_bytes(b"notes of last year")

    store("one")
    undo(path)

    assert path.read_bytes() == b"notes of last year"


def test_a_damaged_profile_gets_its_last_version_back(store: Store, path: Path) -> None:
    one, two = store("one"), store("two")
    path.write_bytes(two[: len(two) // 2])

    undo(path)

    assert path.read_bytes() == one


def test_a_damaged_profile_without_versions_says_so(store: Store, path: Path) -> None:
    path.write_bytes(store("one")[:100])

    with pytest.raises(ProfileError, match="complete safetensors file"):
        undo(path)


def test_a_missing_profile_is_a_wrong_call(store: Store, path: Path) -> None:
    with pytest.raises(UsageError, match="must be an existing file"):
        undo(path)
    store("one"), store("two")
    path.unlink()

    with pytest.raises(UsageError, match="its last version is"):
        undo(path)


def test_a_changed_version_is_not_put_back(store: Store, path: Path) -> None:
    store("one")
    two = store("two")
    version = versions(path)[0]
    data = bytearray(version.read_bytes())
    data[-1] ^= 1
    version.write_bytes(data)

    with pytest.raises(ProfileError, match="has another hash"):
        undo(path)

    assert path.read_bytes() == two


def test_a_history_left_behind_is_named(store: Store, path: Path) -> None:
    store("one"), store("two")
    shutil.rmtree(history_folder(path))

    with pytest.raises(ProfileError, match="copy the folder along"):
        undo(path)


def test_other_files_in_the_history_are_left_alone(store: Store, path: Path) -> None:
    one, _ = store("one"), store("two")
    for name in ("notes.txt", ".half.tmp", "0009-short.safetensors"):
        (history_folder(path) / name).write_text("x")

    assert undo(path).name.startswith("0001-")

    assert path.read_bytes() == one
    assert len(list(history_folder(path).iterdir())) == 3


def test_an_undo_that_died_before_its_end_does_no_harm(store: Store, path: Path) -> None:
    """The version still stands in the history although it was put back."""
    one, _, _ = store("one"), store("two"), store("three")
    twin = path.with_name("kept")
    os.link(versions(path)[-1], twin)
    name = versions(path)[-1]
    undo(path)
    os.link(twin, name)

    store("four")
    undo(path)
    assert path.read_bytes() == twin.read_bytes()
    undo(path)
    assert path.read_bytes() == one


def test_a_disk_without_links_gets_copies(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    one = store("one")
    store("two")
    assert versions(path)[0].stat().st_nlink == 1

    undo(path)

    assert path.read_bytes() == one
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize("step", ["link", "fsync"])
def test_a_full_disk_changes_nothing(
    step: str, store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("one")
    two = store("two")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    if step == "link":
        monkeypatch.setattr(shutil, "copyfile", full)
    for change in (lambda: store("three"), lambda: undo(path)):
        with pytest.raises(StorageError, match="No space left"):
            change()
    monkeypatch.undo()

    if step == "link":
        assert path.read_bytes() == two
    assert not list(path.parent.rglob(".*"))
    Profile.load(path)


def test_a_change_is_flushed_file_before_rename_and_folder_after(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("one")
    steps: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        steps.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> Path:
        steps.append(("rename", str(target)))
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    store("two")

    kinds = [kind for kind, _ in steps]
    places = [place for _, place in steps]
    folder = str(history_folder(path))
    assert kinds == ["rename", "fsync", "fsync", "fsync", "rename", "fsync"]
    assert places[0].startswith(folder) and places[1:3] == [folder, str(path.parent)]
    assert places[3].endswith(".tmp") and places[4:] == [str(path), str(path.parent)]
    steps.clear()

    undo(path)

    assert steps == [
        ("rename", str(path)),
        ("fsync", str(path.parent)),
        ("fsync", folder),
    ]
