import argparse
from pathlib import Path
from typing import Any

import pytest

from cff_runtime.cli import main
from cff_runtime.errors import UsageError
from cff_runtime.watch.command import add_watch_parser, config_from
from cff_runtime.watch.config import SOURCE_FIELDS, WATCH_FIELDS, make_config, read_config

WATCH = 'bundle = "b"\nrecords = "/r"\n'
SOURCE = '[[source]]\nprofile = "p"\n'


def _read(text: str, folder: Path) -> Any:
    path = folder / "watch.toml"
    path.write_text(text)
    return read_config(path)


def test_several_sources_and_paths_from_the_files_folder(tmp_path: Path) -> None:
    config = _read(
        f'[watch]\n{WATCH}trusted_key = ["a.pem", "/k/b.pem"]\nfile_mb = 2\n'
        f'{SOURCE}name = "left"\nfolder = "in"\n'
        f'{SOURCE}name = "right"\ncamera = "rtsp://10.0.0.7/a"\nqueue = 5\n',
        tmp_path,
    )
    left, right = config.sources
    assert (config.bundle, config.records) == (tmp_path / "b", Path("/r"))
    assert config.trusted_key == (tmp_path / "a.pem", Path("/k/b.pem"))
    assert (left.folder, left.policy, left.after) == (tmp_path / "in", "block", "move")
    assert (right.camera, right.policy, right.queue) == ("rtsp://10.0.0.7/a", "drop-oldest", 5)


@pytest.mark.parametrize(
    ("watch", "source", "message"),
    [
        ('bundle = "b"', 'folder = "f"', "`watch.records` must be given"),
        (WATCH + "thread = 3", 'folder = "f"', "did you mean `threads`"),
        (WATCH, 'folder = "f"\nqeue = 3', r"known key of `source\[1\]`; did you mean `queue`"),
        (WATCH, "", r"source\[1\]` must have either `folder` or `camera`"),
        (WATCH, 'folder = "f"\ncamera = "0"', "got both or none"),
        (WATCH, "camera = 0", r"`source\[1\].camera` must be text, got 0"),
        (WATCH, 'folder = "f"\nname = "../x"', r"`source\[1\].name` must be letters"),
        (WATCH, 'folder = "f"\nname = "mode"', r"`source\[1\].name` must be"),
        (WATCH, 'folder = "f"\nqueue = 0', r"`source\[1\].queue` must be a whole number from 1"),
        (WATCH, 'folder = "f"\nqueue = 1.5', "must be a whole number"),
        (WATCH, 'folder = "f"\nqueue = true', "must be a whole number"),
        (WATCH + "file_mb = nan", 'folder = "f"', "`watch.file_mb` must be a number from"),
        (WATCH, 'folder = "f"\nafter = "burn"', "must be one of move, delete, keep"),
        (WATCH, 'folder = "f"\npolicy = "drop-oldest"', "files wait by themselves"),
        (WATCH, 'camera = "0"\nafter = "keep"', "a camera has no files"),
        (WATCH + "limit_mb = 5", 'folder = "f"\nafter = "keep"', "it would be forgotten"),
        (WATCH, 'folder = "f"\nblack = 1', "must be true or false"),
        (WATCH, 'folder = ""', "must be a path"),
        (WATCH, 'folder = "f"\n[[source]]\nprofile = "q"\nfolder = "g"', "`source.name` must be"),
        (WATCH, f'folder = "f"\n{SOURCE}name = "b"\nfolder = "./f"', "one folder twice"),
        (WATCH, f'camera = "0"\n{SOURCE}name = "b"\ncamera = "0"', "one camera twice"),
        (WATCH + "[extra]", 'folder = "f"', "`extra` must be a known key"),
        ("bundle = ", 'folder = "f"', "must be readable TOML"),
    ],
)
def test_errors_name_the_field(watch: str, source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        _read(f"[watch]\n{watch}\n{SOURCE}{source}\n", tmp_path)


@pytest.mark.parametrize("text", ["", "source = 3", "watch = 1\n[[source]]", "\xff"])
def test_files_that_are_no_configuration(text: str, tmp_path: Path) -> None:
    path = tmp_path / "watch.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError):
        read_config(path)
    with pytest.raises(UsageError, match="must be readable TOML"):
        read_config(tmp_path / "none.toml")


def _parse(*arguments: str) -> Any:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_watch_parser(commands)
    commands.choices["watch"].add_argument("--trusted-key", type=Path, action="append")
    return config_from(parser.parse_args(["watch", *arguments]))


def test_every_field_is_an_option_and_both_ways_are_one(tmp_path: Path) -> None:
    samples = {"after": "delete", "policy": "block", "name": "left", "camera": None, "black": False}
    options = ["bundle"]
    watch: dict[str, Any] = {"bundle": "bundle"}
    source: dict[str, Any] = {}
    for field in (*WATCH_FIELDS, *SOURCE_FIELDS):
        if field.name in ("bundle", "camera"):
            continue
        option = f"--{field.name.replace('_', '-')}"
        if "bool" in str(field.type):
            value: Any = not field.default
            options.append(option if value else option.replace("--", "--no-", 1))
        else:
            limits = field.metadata["limits"]
            value = samples.get(field.name) or (limits[1] if limits else f"x-{field.name}")
            options += [option, str(value)]
        (source if field in SOURCE_FIELDS else watch)[field.name] = value
    assert _parse(*options) == make_config(watch, [source], Path.cwd())


def test_a_trusted_key_is_read_before_anything_starts(
    tmp_path: Path, lite_bundle: Any, lite_profile: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography", reason="needs cff-edge[sign]")
    (tmp_path / "in").mkdir()
    lite_profile.save(tmp_path / "profile")
    options = {"--profile": "profile", "--folder": "in", "--records": "r", "--trusted-key": "none"}
    arguments = [
        text for option, name in options.items() for text in (option, str(tmp_path / name))
    ]
    assert main(["watch", str(lite_bundle.path), *arguments]) in (1, 2)
    assert "key" in capsys.readouterr().err


def test_a_file_stands_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--config must be given alone, got --queue"):
        _parse("--config", "watch.toml", "--queue", "3")
    with pytest.raises(UsageError, match="alone, got BUNDLE"):
        _parse("bundle", "--config", "watch.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--folder": "nowhere"}, "`--folder` must be an existing folder"),
        ({"--records": "file"}, "`--records` must be a folder that can be written"),
        ({"--state": "file"}, "`--state` must be a folder that can be written"),
        ({"--backend-option": "x"}, "`--backend-option` must be KEY=VALUE"),
        ({"BUNDLE": "in"}, "must be a bundle"),
    ],
)
def test_nothing_starts_before_all_is_checked(
    change: dict[str, str],
    message: str,
    tmp_path: Path,
    lite_bundle: Any,
    lite_profile: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_text("")
    lite_profile.save(tmp_path / "ring.profile")
    given = {
        "BUNDLE": str(lite_bundle.path),
        "--profile": "ring.profile",
        "--folder": "in",
        "--records": "records",
        **change,
    }
    arguments = [given.pop("BUNDLE")]
    for option, value in given.items():
        is_path = option != "--backend-option"
        arguments += [option, str(tmp_path / value) if is_path else value]
    if change.get("BUNDLE"):
        arguments[0] = str(tmp_path / arguments[0])

    assert main(["watch", *arguments]) in (1, 2)

    error = capsys.readouterr().err
    assert message in error and error.count("error:") == 1 and "Traceback" not in error
