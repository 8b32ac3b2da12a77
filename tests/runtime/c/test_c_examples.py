"""The examples: images as the Python runtime reads them, answers as `cff-run` prints them."""

import contextlib
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from cff_runtime import Inspector, Profile
from cff_runtime.cli import main
from cff_runtime.errors import ImageError
from cff_runtime.imaging import list_images, load_image

C_FOLDER = Path(__file__).parents[3] / "runtime" / "c"
EXAMPLES = C_FOLDER / "examples"
VECTORS = Path(__file__).parents[2] / "conformance"
Pixels = NDArray[np.uint8]
Read = Callable[[Path], Pixels]

_READER = """
#include <stdio.h>
#include "read_image.h"
int main(int argc, char **argv) {
  char reason[REASON_BYTES];
  cff_image image;
  if (argc != 2) return 2;
  if (!read_image(argv[1], &image, reason)) {
    fprintf(stderr, "%s\\n", reason);
    return 1;
  }
  fprintf(stderr, "%d %d", image.height, image.width);
  fwrite(image.pixels, image.stride, (size_t)image.height, stdout);
  free_image(&image);
  return 0;
}
"""
_LISTER = """
#include <stdio.h>
#include "list_images.h"
#include "print_json.h"
int main(int argc, char **argv) {
  char reason[REASON_BYTES];
  image_list list = {0};
  for (int i = 1; i < argc; i++) {
    if (!list_images(argv[i], &list, reason)) {
      fprintf(stderr, "%s\\n", reason);
      return 1;
    }
  }
  for (size_t i = 0; i < list.n_paths; i++) {
    print_json(stdout, list.paths[i]);
    puts("");
  }
  free_list(&list);
  return 0;
}
"""


class ReadError(Exception):
    """What the reader said."""


def _compile(folder: Path, name: str, source: str, parts: Sequence[str], *flags: str) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    (folder / f"{name}.c").write_text(source)
    command = ["cc", "-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command += [f"-I{C_FOLDER / 'include'}", f"-I{EXAMPLES}", str(folder / f"{name}.c")]
    command += [str(EXAMPLES / part) for part in parts]
    done = subprocess.run(
        [*command, *flags, "-o", str(folder / name)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "No such file" in done.stderr or "cannot find" in done.stderr:
        pytest.skip("libpng or libjpeg is not installed with its headers")
    assert done.returncode == 0, done.stderr
    return folder / name


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Return a reader of images by examples/read_image.c."""
    folder = tmp_path_factory.mktemp("reader")
    flags = ("-DWITH_PNG", "-DWITH_JPEG", "-lpng", "-ljpeg")
    program = _compile(folder, "reader", _READER, ["read_image.c"], *flags)

    def call(path: Path) -> Pixels:
        done = subprocess.run([program, path], capture_output=True, timeout=60, check=False)
        if done.returncode == 1:
            raise ReadError(done.stderr.decode())
        assert done.returncode == 0
        height, width = map(int, done.stderr.split())
        return np.array(np.frombuffer(done.stdout, np.uint8).reshape(height, width, 3))

    return call


@pytest.fixture
def noise() -> Pixels:
    """Return 37 x 53 pixels of smooth shapes and noise."""
    rng = np.random.default_rng(11)
    coarse = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((53, 37)), np.int64)
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P"])
def test_png_of_every_mode(mode: str, noise: Pixels, read: Read, tmp_path: Path) -> None:
    image = Image.fromarray(noise)
    if mode in ("RGBA", "LA"):
        alpha = Image.fromarray(noise[:, :, 0])
        image = image.convert(mode[:-1])
        image.putalpha(alpha)
    else:
        image = image.convert(mode)
    path = tmp_path / "image.png"
    image.save(path)
    np.testing.assert_array_equal(read(path), load_image(path))


@pytest.mark.parametrize(("n_colours", "bits"), [(2, 1), (4, 2), (16, 4), (200, 8)])
@pytest.mark.parametrize("transparent", [False, True])
def test_png_palettes(
    n_colours: int, bits: int, transparent: bool, noise: Pixels, read: Read, tmp_path: Path
) -> None:
    image = Image.fromarray(noise).quantize(n_colours)
    path = tmp_path / "image.png"
    if transparent:
        image.save(path, bits=bits, transparency=bytes(range(n_colours)))
    else:
        image.save(path, bits=bits)
    np.testing.assert_array_equal(read(path), load_image(path))


@pytest.mark.parametrize("extra", ["gamma", "icc", "tRNS"])
def test_png_colour_facts_change_nothing(
    extra: str, noise: Pixels, read: Read, tmp_path: Path
) -> None:
    path, info = tmp_path / "image.png", PngImagePlugin.PngInfo()
    options: dict[str, Any] = {"pnginfo": info}
    if extra == "gamma":
        info.add(b"gAMA", struct.pack(">I", 100000))
    elif extra == "icc":
        from PIL import ImageCms

        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
        options["icc_profile"] = profile.tobytes()
    else:
        options["transparency"] = tuple(int(value) for value in noise[0, 0])
    Image.fromarray(noise).save(path, **options)
    np.testing.assert_array_equal(read(path), noise)
    np.testing.assert_array_equal(read(path), load_image(path))


_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


def _png(values: NDArray[Any], colour: int, bits: int, passes: Sequence[Any] = ()) -> bytes:
    """Return a PNG of `values` [h,w,channels], written by hand."""
    height, width = values.shape[:2]
    rows = b""
    for x, y, dx, dy in passes or [(0, 0, 1, 1)]:
        for row in values[y::dy, x::dx]:
            if row.size == 0:
                continue
            if bits >= 8:
                packed = row.astype(f">u{bits // 8}").tobytes()
            else:
                each = [format(int(value), f"0{bits}b") for value in row.ravel()]
                text = "".join(each)
                text += "0" * (-len(text) % 8)
                packed = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
            rows += b"\0" + packed
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(bool(passes)))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_png_of_16_bits_keeps_the_high_byte(colour: int, read: Read, tmp_path: Path) -> None:
    n_channels = _CHANNELS[colour]
    values = np.random.default_rng(3).integers(0, 65536, (20, 31, n_channels))
    path = tmp_path / "image.png"
    path.write_bytes(_png(values, colour, 16))
    high = (values >> 8).astype(np.uint8)
    expected = np.repeat(high[:, :, :1], 3, axis=2) if n_channels < 3 else high[:, :, :3]
    np.testing.assert_array_equal(read(path), expected)
    np.testing.assert_array_equal(read(path), load_image(path))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits(bits: int, read: Read, tmp_path: Path) -> None:
    values = np.random.default_rng(4).integers(0, 1 << bits, (20, 31, 1))
    path = tmp_path / "image.png"
    path.write_bytes(_png(values, 0, bits))
    np.testing.assert_array_equal(read(path), load_image(path))


@pytest.mark.parametrize("shape", [(16, 16, 3), (37, 53, 3), (16, 17, 3)])
def test_png_interlaced(shape: tuple[int, int, int], read: Read, tmp_path: Path) -> None:
    values = np.random.default_rng(5).integers(0, 256, shape)
    adam7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
    adam7 += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    path = tmp_path / "image.png"
    path.write_bytes(_png(values, 2, 8, adam7))
    np.testing.assert_array_equal(read(path), values)
    np.testing.assert_array_equal(read(path), load_image(path))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("quality", [30, 95])
def test_jpeg(
    subsampling: str,
    options: dict[str, Any],
    quality: int,
    noise: Pixels,
    read: Read,
    tmp_path: Path,
) -> None:
    path = tmp_path / "image.jpg"
    Image.fromarray(noise).save(path, quality=quality, subsampling=subsampling, **options)
    np.testing.assert_array_equal(read(path), load_image(path))


def test_jpeg_grey_and_orientation(noise: Pixels, read: Read, tmp_path: Path) -> None:
    path, exif = tmp_path / "image.jpeg", Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(noise[:, :, 0]).save(path, exif=exif)
    assert read(path).shape == noise.shape
    np.testing.assert_array_equal(read(path), load_image(path))


def test_ppm_and_pgm(noise: Pixels, read: Read, tmp_path: Path) -> None:
    colour, grey = tmp_path / "a.ppm", tmp_path / "b.pgm"
    Image.fromarray(noise).save(colour)
    grey.write_bytes(b"P5 # of\n# two lines\n53\t37 255\n" + noise[:, :, 0].tobytes())
    np.testing.assert_array_equal(read(colour), noise)
    np.testing.assert_array_equal(read(grey), np.repeat(noise[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".ppm"])
def test_truncated_images(suffix: str, noise: Pixels, read: Read, tmp_path: Path) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    # without what comes after the pixels, decoders differ
    for n_bytes in [0, 1, 2, 7, 9, 20, 40, len(whole) // 2, len(whole) - 30]:
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(ReadError, match="must be a readable PNG, JPEG, PPM or PGM image: "):
            read(path)
        with pytest.raises(ImageError):
            load_image(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"P6 60000 60000 255\n", "more than 178956970 pixels"),
        (b"P6 99999999999999999999 1 255\n", "header is damaged"),
        (b"P6 0 1 255\n", "it is empty"),
        (b"P6 1 1 65535\n123456", "largest value is not 255"),
        (b"P6 -1 1 255\n", "header is damaged"),
        (b"BM and so on", "format is not known"),
    ],
)
def test_images_that_are_refused(content: bytes, why: str, read: Read, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(ReadError, match=why):
        read(path)


def test_damaged_images_never_crash(noise: Pixels, read: Read, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    for suffix in (".png", ".jpg"):
        path = tmp_path / f"image{suffix}"
        Image.fromarray(noise).save(path)
        whole = bytearray(path.read_bytes())
        for _ in range(30):
            damaged = whole.copy()
            for index in rng.integers(0, len(whole), 5):
                damaged[index] = rng.integers(256)
            path.write_bytes(damaged)
            with contextlib.suppress(ReadError):
                read(path)  # asserts its exit code


def test_cmyk_is_refused(noise: Pixels, read: Read, tmp_path: Path) -> None:
    Image.fromarray(noise).convert("CMYK").save(tmp_path / "image.jpg")
    with pytest.raises(ReadError, match="it is CMYK"):
        read(tmp_path / "image.jpg")


def test_lists_and_names_are_python_s(noise: Pixels, tmp_path: Path) -> None:
    program = _compile(tmp_path, "lister", _LISTER, ["list_images.c", "print_json.c"])
    folder = tmp_path / "parts"
    folder.mkdir()
    names: list[bytes] = [b"b.PNG", b"a.jpeg", b"B.tiff", b".hidden.png", b"notes.txt", b"png"]
    names += ['ä "quoted" \\ \t\x7f.png'.encode(), "零件 😀.bmp".encode(), b"\xff\xc0\xaf.jpg"]
    names += [b"\xed\xa0\x80.jpg", b"\xf4\x90\x80\x80.jpg", b"\xe4\xbd", b"cut \xe4\xbd.tif"]
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(b"")
    single = folder / "notes.txt"
    listed = subprocess.run(
        [program, f"{folder}//", single], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    # undecodable names sort by their bytes in C, by surrogates in Python: the same here
    assert listed.splitlines() == [json.dumps(str(path)) for path in list_images([folder, single])]
    for wrong, why in ((tmp_path / "none", "existing image"), (tmp_path / "empty", "at least one")):
        if wrong.name == "empty":
            wrong.mkdir()
        done = subprocess.run([program, wrong], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert why in done.stderr


# ---- the programs --------------------------------------------------------------------------------


class Programs(NamedTuple):
    """The examples, built outside the tree against an installed libcff."""

    folder: Path

    def run(
        self, name: str, *arguments: object, before: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*before, str(self.folder / name), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def programs(c_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    folder = tmp_path_factory.mktemp("examples")
    prefix, build = folder / "prefix", folder / "build"
    configure = ["cmake", "-S", str(EXAMPLES), "-B", str(build), f"-DCMAKE_PREFIX_PATH={prefix}"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", "-DCFF_WERROR=ON"]
    if os.environ.get("CFF_C_SANITIZE"):
        configure.append("-DCFF_SANITIZE=ON")
    for command in (
        ["cmake", "--install", str(c_build), "--prefix", str(prefix)],
        configure,
        ["cmake", "--build", str(build), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return Programs(build)


def _without_times(line: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(line)
    for name in ("stages_ms", "total_ms"):
        answer.pop(name, None)
    return answer


@pytest.mark.parametrize("profile", ["plain_one", "plain_four", "text_two", "text_review"])
def test_inspect_folder_prints_what_cff_run_prints(
    profile: str, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = VECTORS / "bundles" / profile.split("_")[0]
    path, images = VECTORS / "profiles" / f"{profile}.safetensors", VECTORS / "images"
    done = programs.run("inspect_folder", "--threads", "1", bundle, path, images)
    assert (done.returncode, done.stderr) == (0, "")
    assert main(["inspect", str(bundle), str(images), "--profile", str(path), "--json"]) == 0
    lines, expected_lines = done.stdout.splitlines(), capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected_lines) == len(list(images.iterdir()))
    for line, expected_line in zip(lines, expected_lines, strict=True):
        assert list(json.loads(line)) == list(json.loads(expected_line))
        answer, expected = _without_times(line), _without_times(expected_line)
        regions, expected_regions = answer.pop("regions"), expected.pop("regions")
        # text scores come from float32 graphs, whose sums depend on the threads
        assert answer == {k: _about(value) for k, value in expected.items()}
        assert regions == [{k: _about(v) for k, v in one.items()} for one in expected_regions]


def _about(value: Any) -> Any:
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


def test_inspect_folder_tells_what_failed(
    programs: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, profile = VECTORS / "bundles" / "plain", VECTORS / "profiles" / "plain_one.safetensors"
    good = (VECTORS / "images" / "good.png").read_bytes()
    (tmp_path / "1.png").write_bytes(good)
    (tmp_path / "2.png").write_bytes(good[: len(good) // 2])
    Image.new("RGB", (15, 20)).save(tmp_path / '3 "\n.png')
    done = programs.run("inspect_folder", bundle, profile, tmp_path)
    assert done.returncode == 1
    assert main(["inspect", str(bundle), str(tmp_path), "--profile", str(profile), "--json"]) == 1
    captured = capsys.readouterr()
    answers, expected = (
        [json.loads(line) for line in text.splitlines()] for text in (done.stdout, captured.out)
    )
    assert [sorted(one) for one in answers] == [sorted(one) for one in expected]
    assert [one["image"] for one in answers] == [one["image"] for one in expected]
    assert [one["error"] for one in answers[1:]] == re.findall(
        "error: (.*(?:\n\\.png.*)?)\n", done.stderr
    )[:2]
    assert done.stderr.endswith("error: 2 of 3 images failed\n")
    assert captured.err.endswith("error: 2 of 3 images failed\n")


@pytest.mark.parametrize("program", ["inspect_folder", "enroll", "inspect"])
def test_wrong_calls(program: str, programs: Programs, tmp_path: Path) -> None:
    done = programs.run(program)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"usage: {program} " in done.stderr
    product = ["--product", "plate"] if program == "enroll" else []
    bundle, image = VECTORS / "bundles" / "plain", VECTORS / "images" / "good.png"
    done = programs.run(program, *product, tmp_path / "none", tmp_path / "none", image)
    assert (done.returncode, done.stdout) == (2, "") or done.returncode == 1
    assert re.search(r"^error: .*none", done.stderr, flags=re.MULTILINE)
    if program == "inspect":
        return
    for wrong in (["--colour", "red"], ["--threads", "many"], ["--threads"]):
        done = programs.run(program, *product, *wrong, bundle, tmp_path / "p", image)
        assert (done.returncode, done.stdout) == (2, "")
    done = programs.run(program, *product, bundle, tmp_path / "p", tmp_path / "no images")
    assert (done.returncode, done.stdout) == (2, "")
    assert "must be an existing image or folder" in done.stderr


def test_provider_that_is_not_there(programs: Programs) -> None:
    done = programs.run(
        "inspect_folder",
        "--provider",
        "openvino",
        VECTORS / "bundles" / "plain",
        VECTORS / "profiles" / "plain_one.safetensors",
        VECTORS / "images" / "good.png",
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")


def test_output_that_cannot_be_written(programs: Programs) -> None:
    command = [
        str(programs.folder / "inspect_folder"),
        str(VECTORS / "bundles" / "plain"),
        str(VECTORS / "profiles" / "plain_one.safetensors"),
        str(VECTORS / "images"),
    ]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "error: output: No space left on device\n"


def test_inspect_in_cpp(programs: Programs) -> None:
    bundle, path = VECTORS / "bundles" / "plain", VECTORS / "profiles" / "plain_one.safetensors"
    images = [VECTORS / "images" / f"{name}.png" for name in ("good", "weave", "large")]
    done = programs.run("inspect", bundle, path, *images)
    assert (done.returncode, done.stderr) == (0, "")
    inspector, profile = Inspector.open(bundle), Profile.load(path)
    expected = []
    for image in images:
        result = inspector.inspect(load_image(image), profile)
        expected.append(f"{result.verdict:6}  {result.score:8.4f}  {image}")
        for region in result.regions:
            x, y, width, height = region.box
            peak = f"peak {region.peak:.4f}"
            expected.append(f"        at {x}, {y}: {width} x {height} px, {peak}")
    assert done.stdout.splitlines() == expected


def test_enroll_makes_python_s_profile(
    programs: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = VECTORS / "bundles" / "plain"
    images = [VECTORS / "images" / f"reference_{index}.png" for index in range(4)]
    ours, python = tmp_path / "c.safetensors", tmp_path / "python.safetensors"
    options = ["--product", "plate", "--max-bank", "20"]
    done = programs.run("enroll", *options, bundle, ours, *images)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("encoded ")
    arguments = ["enroll", str(bundle), *map(str, images), *options, "--out", str(python)]
    assert main(arguments) == 0
    assert done.stdout == capsys.readouterr().out.replace(str(python), str(ours))
    c_profile, expected = Profile.load(ours), Profile.load(python)
    assert c_profile.threshold.value == pytest.approx(expected.threshold.value, abs=1e-5)
    assert [one.name for one in c_profile.references] == [one.name for one in expected.references]
    for ours_bank, expected_bank in zip(c_profile.banks, expected.banks, strict=True):
        np.testing.assert_allclose(ours_bank, expected_bank, atol=1e-6)
    done = programs.run("inspect_folder", bundle, ours, images[0])
    assert json.loads(done.stdout)["verdict"] == "pass"


@pytest.mark.slow
def test_programs_under_valgrind(programs: Programs, tmp_path: Path) -> None:
    """No wrong access, nothing lost; suppressed is what lies in ONNX Runtime itself."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    if os.environ.get("CFF_C_SANITIZE"):
        pytest.skip("valgrind and sanitizers exclude each other")
    bundle, profile = VECTORS / "bundles" / "text", tmp_path / "plate.safetensors"
    images = [VECTORS / "images" / f"reference_{index}.png" for index in range(2)]
    before = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full"]
    before += ["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"]
    before.append(f"--suppressions={C_FOLDER / 'tests' / 'valgrind.supp'}")
    product = ("--product", "plate", "--threads", "1")
    done = programs.run("enroll", *product, bundle, profile, *images, before=before)
    assert done.returncode == 0, done.stderr
    small = [VECTORS / "images" / f"{name}.png" for name in ("good", "tiny", "grey")]
    done = programs.run("inspect_folder", "--threads", "1", bundle, profile, *small, before=before)
    assert (done.returncode, done.stderr) == (0, "")
    done = programs.run("inspect", bundle, profile, *small, before=before)
    assert (done.returncode, done.stderr) == (0, "")
