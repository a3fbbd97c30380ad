"""img_preprocess.py: the bits are torchvision's, and a run that went wrong leaves nothing that looks right.

Most cases call main() in this process, through cli.run(), which makes the message and the exit status;
a few start Python, where it matters what can be imported.
"""
import json
import os
import shutil
import signal
import struct
import sys
from pathlib import Path

import img_preprocess
from common import cli
from common.formats import read_manifest
from conftest import SUITE, fake_module, run

import cv2
import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

SCRIPT = SUITE / "img_preprocess.py"
PHOTOS = SUITE / "test/data/imagenet/val"
PHOTO_NAMES = sorted(path.name for path in PHOTOS.iterdir())
ODD_PHOTOS = ["bucket_2", "camera_4", "castle_2", "coffee_4", "crab_3", "koala_2", "lemur_3", "macaw_3"]
SMALL = ("--resize=16", "--crop=12")
SMALL_BYTES = 3 * 12 * 12 * 4

pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """torch's threads wait for each other by spinning: on so small tensors that takes half of the time."""
    import torch  # not at the top: every pytest process reads every file

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(resize=333, crop=299, interpolation="bilinear"):
    return {"resize": resize, "crop": crop, "interpolation": interpolation}


def reference(path, resize=333, crop=299, interpolation="bilinear"):
    """The tensor that torchvision makes of an image, as bits: uint32 (3, crop, crop)."""
    from torchvision import transforms

    transform = transforms.Compose([
        transforms.Resize(resize, interpolation=transforms.InterpolationMode(interpolation)),
        transforms.CenterCrop(crop),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ])
    with Image.open(path) as image:
        return transform(image.convert("RGB")).numpy().view(np.uint32)


def tensor(path, **changes):
    """The tensor that img_preprocess makes of an image, as bits."""
    result = img_preprocess.normalize(img_preprocess.load_crop(path, recipe(**changes))[0])
    assert (result.dtype, result.flags.c_contiguous) == (np.dtype("<f4"), True)
    return result.view(np.uint32)


def assert_equal_bits(path, **changes):
    np.testing.assert_array_equal(tensor(path, **changes), reference(path, **changes), strict=True)


def noise(mode, width, height, seed=0):
    """An image of random pixels in any of Pillow's modes; palettes are random too."""
    random = np.random.default_rng(seed)
    count = len(Image.new(mode, (1, 1)).getbands())
    bands = [Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8)) for _ in range(count)]
    if mode == "1":
        return bands[0].point(lambda value: 255 * (value > 99), "1")
    if mode == "P":
        image = Image.frombytes("P", (width, height), bands[0].tobytes())
        image.putpalette(random.integers(0, 256, 768, dtype=np.uint8).tobytes())
        return image
    return Image.merge(mode, bands)


def save(path, mode="RGB", size=(20, 20), seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(mode, *size, seed).save(path, **{"compress_level": 0, **options})  # 0: PNG, quickly
    return path


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture
def prepare(tmp_path, monkeypatch, capfd):
    """Call the script's main() in tmp_path with images of 12 x 12; return (stdout, stderr)."""
    def call(*words, src="src", dst="dst", status=0, small=SMALL):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, (src, dst, *small, *words))])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.run(img_preprocess.main)
        out, err = capfd.readouterr()
        assert end.value.code == status, err
        assert not [path for path in tmp_path.rglob("*.part") if path.is_file()]
        return out, err

    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def images(tmp_path):
    """src/a.JPEG, src/b.png and src/c.JPEG."""
    for seed, name in enumerate(("a.JPEG", "b.png", "c.JPEG")):
        save(tmp_path / "src" / name, seed=seed)
    return tmp_path / "src"


# ---- some of the images

def test_a_sample_is_the_same_for_a_seed_and_another_for_another(prepare, tmp_path):
    for number in range(12):
        save(tmp_path / f"src/i{number:02}.png", size=(16, 16))
    taken = {}
    for words in (("--limit=5",), ("--sample=5",), ("--sample=5", "--seed=0"), ("--sample=5", "--seed=1")):
        dst = "".join(words).strip("-")
        assert prepare(*words, dst=dst)[0].startswith(f"5 tensors in {dst} ")
        taken[words] = [name for name in content(tmp_path / dst) if name.endswith(".bin")]
    first, sample, same, other = taken.values()
    assert first == [f"i{number:02}.bin" for number in range(5)]
    assert sample == same != other
    assert prepare("--sample=13", dst="x", status=3)[1] == (
        "img_preprocess.py: there are 12 images, fewer than the 13 asked for\n")


def test_a_bad_image_outside_a_sample_does_not_matter(prepare, images, tmp_path):
    (images / "zz.JPEG").write_text("404")
    (images / "with space.JPEG").write_text("404")
    assert prepare("--limit=3")[0] == "3 tensors in dst (3 made, 0 kept)\n"


# ---- the bits

@pytest.fixture(scope="module")
def prepared_photos(tmp_path_factory):
    """The demo photos, as a user prepares them."""
    folder = tmp_path_factory.mktemp("photos")
    result = run(sys.executable, SCRIPT, PHOTOS, "./prep_dataset", "--jobs=2", cwd=folder)
    assert result.stdout == "45 tensors in prep_dataset (45 made, 0 kept)\n"
    assert result.stderr == ""
    return folder / "prep_dataset"


def test_a_bin_for_every_photo(prepared_photos):
    assert len(PHOTO_NAMES) == 45
    bins = {path.name: path.stat().st_size for path in prepared_photos.glob("*.bin")}
    assert bins == {name.replace(".JPEG", ".bin"): 1_072_812 for name in PHOTO_NAMES}
    assert len(list(prepared_photos.iterdir())) == 47  # and the manifest and the lock


@pytest.mark.parametrize("name", PHOTO_NAMES)
def test_photo_333(prepared_photos, name):
    written = np.fromfile(prepared_photos / name.replace(".JPEG", ".bin"), dtype="<u4").reshape(3, 299, 299)
    np.testing.assert_array_equal(written, reference(PHOTOS / name))


@pytest.mark.parametrize("name", PHOTO_NAMES)
def test_photo_342(name):
    assert_equal_bits(PHOTOS / name, resize=342)


@pytest.mark.parametrize("resize", [333, 342])
@pytest.mark.parametrize("name", ODD_PHOTOS)
def test_photo_bicubic(name, resize):
    assert_equal_bits(PHOTOS / f"{name}.JPEG", resize=resize, interpolation="bicubic")


def test_bicubic_is_not_bilinear():
    path = PHOTOS / "crab_3.JPEG"
    assert (tensor(path, interpolation="bicubic") != tensor(path)).mean() > 0.5


ODD_IMAGES = {
    "one pixel": ("p.png", "RGB", (1, 1), {}),
    "one pixel wide": ("p.png", "RGB", (1, 40), {}),
    "one pixel high": ("p.png", "RGB", (40, 1), {}),
    "wide strip": ("p.png", "RGB", (600, 7), {}),
    "tall strip": ("p.png", "RGB", (7, 600), {}),
    "1 bit": ("p.png", "1", (350, 301), {}),
    "grey": ("p.png", "L", (350, 301), {}),
    "grey and alpha": ("p.png", "LA", (350, 301), {}),
    "palette": ("p.png", "P", (350, 301), {}),
    "palette, one transparent": ("p.png", "P", (350, 301), {"transparency": 7}),
    "palette, many transparent": ("p.png", "P", (350, 301), {"transparency": bytes(range(256))}),
    "GIF": ("p.gif", "P", (350, 301), {}),
    "RGBA": ("p.png", "RGBA", (350, 301), {}),
    "CMYK JPEG": ("p.JPEG", "CMYK", (350, 301), {}),
    "CMYK TIFF": ("p.tif", "CMYK", (350, 301), {}),
    "progressive JPEG": ("p.JPEG", "RGB", (350, 301), {"progressive": True}),
    "grey JPEG": ("p.jpg", "L", (350, 301), {}),
    "WebP": ("p.webp", "RGB", (350, 301), {}),
    "BMP": ("p.bmp", "RGB", (350, 301), {}),
    "short side 333": ("p.png", "RGB", (333, 500), {}),
    "exactly 333": ("p.png", "RGB", (333, 333), {}),
    "exactly 299": ("p.png", "RGB", (299, 299), {}),
    "square, larger": ("p.png", "RGB", (667, 667), {}),
}


@pytest.mark.parametrize("what", ODD_IMAGES)
def test_odd_image(tmp_path, what):
    name, mode, size, options = ODD_IMAGES[what]
    path = save(tmp_path / name, mode, size, **options)
    with Image.open(path) as image:
        assert (image.mode, image.size) == (mode, size)  # the case is what it says
    assert_equal_bits(path)
    if max(size) < 500:  # the rest would take a second each
        assert_equal_bits(path, resize=342, interpolation="bicubic")


@pytest.mark.parametrize("side", range(34, 46))
def test_crop_offset_of_half_a_pixel(tmp_path, side):
    """Each remainder of the difference by 4, of the long and of the short side."""
    for size in ((side, 33), (33, side), (side, 34), (side, 35), (side, 36)):
        path = save(tmp_path / "p.png", "L", size, seed=side)
        for crop in (28, 29):
            assert_equal_bits(path, resize=min(size), crop=crop)


@pytest.mark.parametrize("side, offset", [(333, 17), (334, 18), (335, 18), (336, 18), (337, 19), (338, 20), (340, 20)])
def test_crop_offset(tmp_path, side, offset):
    """(side - 299) / 2, a half going to the even neighbour; 333 and above is not resized here."""
    image = noise("RGB", side, 333)
    image.save(tmp_path / "wide.bmp")
    image.transpose(Image.TRANSPOSE).save(tmp_path / "tall.bmp")
    expected = np.asarray(image)[17:17 + 299, offset:offset + 299]
    np.testing.assert_array_equal(img_preprocess.load_crop(tmp_path / "wide.bmp", recipe())[0], expected)
    expected = expected.transpose(1, 0, 2)
    np.testing.assert_array_equal(img_preprocess.load_crop(tmp_path / "tall.bmp", recipe())[0], expected)


@pytest.mark.parametrize("size, resized", [
    ((500, 375), (444, 333)), ((375, 500), (333, 444)), ((333, 500), (333, 500)), ((500, 334), (498, 333)),
    ((1, 1), (333, 333)), ((1, 40), (333, 13320)), ((600, 7), (28542, 333)), ((4288, 2848), (501, 333)),
])
def test_resized_size_rounds_the_long_side_down(size, resized):
    assert img_preprocess.resized_size(*size, 333) == resized


def test_exif_rotation_is_not_applied(tmp_path):
    plain = tensor(save(tmp_path / "plain.JPEG", size=(340, 310)))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / f"{orientation}.JPEG", size=(340, 310), exif=exif)
        with Image.open(path) as image:
            assert image.getexif()[0x0112] == orientation
        np.testing.assert_array_equal(tensor(path), plain)
        assert_equal_bits(path)


MODES = {"1": "png", "L": "png", "LA": "png", "P": "png", "RGB": "png", "RGBA": "png", "CMYK": "tif",
         "YCbCr": "JPEG"}


@settings(max_examples=120, derandomize=True, deadline=None, database=None)
@given(
    mode=st.sampled_from(sorted(MODES)), width=st.integers(1, 130), height=st.integers(1, 130),
    crop=st.integers(1, 40), margin=st.integers(0, 15), interpolation=st.sampled_from(["bilinear", "bicubic"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_image_any_recipe(tmp_path_factory, mode, width, height, crop, margin, interpolation, seed):
    path = save(tmp_path_factory.getbasetemp() / f"hypothesis.{MODES[mode]}", mode, (width, height), seed)
    assert_equal_bits(path, resize=crop + margin, crop=crop, interpolation=interpolation)


def every_byte():
    """uint8 (16, 16, 3) in which each channel has every byte, in different orders."""
    values = np.arange(256, dtype=np.uint8)
    return np.stack([values, values[::-1], np.roll(values, 77)], axis=-1).reshape(16, 16, 3)


def test_normalize_every_byte(monkeypatch):
    from torchvision import transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    expected = transform(Image.fromarray(every_byte())).numpy()
    assert (expected.min(), expected.max()) == (-1, 1)
    assert img_preprocess.opencv() is cv2
    np.testing.assert_array_equal(img_preprocess.normalize(every_byte()).view("u4"), expected.view("u4"), strict=True)
    monkeypatch.setattr(img_preprocess, "opencv", lambda: None)
    np.testing.assert_array_equal(img_preprocess.normalize(every_byte()).view("u4"), expected.view("u4"), strict=True)


@pytest.mark.parametrize("name", ODD_PHOTOS)
def test_numpy_gives_the_bits_of_opencv(monkeypatch, prepared_photos, name):
    monkeypatch.setattr(img_preprocess, "opencv", lambda: None)
    np.testing.assert_array_equal(tensor(PHOTOS / f"{name}.JPEG").ravel(),
                                  np.fromfile(prepared_photos / f"{name}.bin", "<u4"))


# ---- who decodes

def kinds_of_jpeg(folder: Path) -> Path:
    """Make a folder with one photo as JPEGs of other kinds."""
    folder.mkdir(parents=True)
    photo = Image.open(PHOTOS / "macaw_1.JPEG").convert("RGB")
    rotated = Image.Exif()
    rotated[0x0112] = 6  # Orientation
    for name, image, options in (
            ("444", photo, {"subsampling": 0}), ("422", photo, {"subsampling": 1}), ("420", photo, {"subsampling": 2}),
            ("411", photo, {"subsampling": "4:1:1"}), ("gray", photo.convert("L"), {}),
            ("progressive", photo, {"progressive": True}), ("cmyk", photo.convert("CMYK"), {}),
            ("rotated", photo, {"exif": rotated.tobytes()}), ("rgb", photo, {"keep_rgb": True}),
            ("odd", photo.resize((301, 333)), {}), ("restarts", photo, {"restart_marker_rows": 1}),
            ("several", photo, {"format": "MPO", "save_all": True, "append_images": [photo]})):
        image.save(folder / f"{name}.JPEG", **{"format": "JPEG", "quality": 85, **options})
    return folder


@pytest.fixture
def old_pillow(monkeypatch):
    """As with Pillow 7.2, whose libjpeg is another one, and whose Image.open has no `formats`."""
    monkeypatch.setattr(PIL, "__version__", "7.2.0")
    monkeypatch.setattr(Image, "open", lambda path, open=Image.open: open(path))
    monkeypatch.setattr(img_preprocess, "pillow_turbo", lambda: "")


def test_opencv_decodes_where_pillow_has_another_libjpeg(old_pillow, prepared_photos, tmp_path, monkeypatch):
    paths = [*PHOTOS.iterdir(), *kinds_of_jpeg(tmp_path / "kinds").iterdir()]
    assert img_preprocess.decoder().startswith("libjpeg-turbo ")
    found = [tensor(path) for path in paths]
    monkeypatch.undo()
    for path, array in zip(paths, found):
        np.testing.assert_array_equal(array, tensor(path), str(path))


def test_opencv_is_not_asked_for_what_pillow_refuses(old_pillow, tmp_path):
    (tmp_path / "cut.JPEG").write_bytes((PHOTOS / "macaw_1.JPEG").read_bytes()[:20_000])
    Image.new("RGB", (8, 8)).save(tmp_path / "eps.JPEG", "EPS")
    with pytest.raises(OSError, match="truncated"):
        tensor(tmp_path / "cut.JPEG")
    with pytest.raises(ValueError, match="cannot read image format EPS"):
        tensor(tmp_path / "eps.JPEG")


def test_without_libjpeg_turbo_a_warning(old_pillow, tmp_path, monkeypatch, capsys):
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(PHOTOS / "macaw_1.JPEG", few)
    run(sys.executable, SCRIPT, few, "out", cwd=tmp_path)
    assert read_manifest(tmp_path / "out")["decoder"].startswith("libjpeg-turbo ")
    monkeypatch.setattr(img_preprocess, "opencv", lambda: None)
    img_preprocess.opencv_turbo.cache_clear()
    monkeypatch.setattr(sys, "argv", ["img_preprocess.py", str(few), str(tmp_path / "out")])
    assert img_preprocess.main() == 0
    img_preprocess.opencv_turbo.cache_clear()
    printed = capsys.readouterr()
    assert "1 bins of another recipe, source or decoder removed" in printed.err
    assert "warning: neither Pillow nor OpenCV has libjpeg-turbo" in printed.err
    assert read_manifest(tmp_path / "out")["decoder"] == "libjpeg of Pillow 7.2.0"


# ---- what is imported

def test_without_opencv_the_same_files_and_a_message(tmp_path, prepared_photos):
    env = fake_module(tmp_path / "fake", "cv2", "raise ImportError('libGL.so.1: cannot open shared object file')")
    result = run(sys.executable, SCRIPT, PHOTOS, "out", cwd=tmp_path, env=env)
    assert result.stderr == ("OpenCV cannot be imported (is libGL missing?); numpy is used instead: same result, "
                             "slightly slower\n")
    assert content(tmp_path / "out") == content(prepared_photos)


def test_torch_is_only_for_verify(tmp_path, images):
    env = fake_module(tmp_path / "fake", "torch", "raise ImportError('no torch here')")
    words = (sys.executable, SCRIPT, "src", "dst", *SMALL)
    assert run(*words, cwd=tmp_path, env=env).stdout == "3 tensors in dst (3 made, 0 kept)\n"
    result = run(*words, "--verify=3", cwd=tmp_path, env=env, status=4)
    assert result.stderr == ("img_preprocess.py: --verify needs torchvision (no torch here); "
                             "the tensors are done, only unverified\n")
    assert result.stdout == "3 tensors in dst (0 made, 3 kept)\n"


# ---- what is written

def test_layout_of_a_bin(prepare, images, tmp_path):
    """Planes R, G, B, rows from the top, little-endian float32."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = (255, 0, 51)
    pixels[8:, :, 2] = np.arange(16)
    Image.fromarray(pixels).save(images / "layout.png")
    prepare()
    data = (tmp_path / "dst/layout.bin").read_bytes()
    assert len(data) == SMALL_BYTES
    planes = np.array(struct.unpack(f"<{3 * 12 * 12}f", data)).reshape(3, 12, 12)
    assert (planes[0, :6] == 1).all()
    assert (planes[0, 6:] == -1).all()
    assert (planes[1] == -1).all()
    assert planes[2, :6] == pytest.approx(np.full((6, 12), (51 / 255 - 0.5) / 0.5), abs=1e-6)
    assert planes[2, 6:] == pytest.approx(np.tile((np.arange(2, 14) / 255 - 0.5) / 0.5, (6, 1)), abs=1e-6)


def test_manifest_reports_the_recipe(prepare, images, tmp_path):
    prepare("--interpolation=bicubic")
    found = manifest(tmp_path / "dst")
    assert found["recipe"] == {"resize": 16, "crop": 12, "interpolation": "bicubic", "mean": 0.5, "std": 0.5,
                               "dtype": "float32", "layout": "CHW"}
    assert (found["complete"], found["count"], found["bytes"]) == (True, 3, SMALL_BYTES)
    assert found["source"] == str(images)


def test_class_folders_and_every_suffix(prepare, tmp_path):
    names = ["n01/a.JPEG", "n01/b.jpg", "n02/deep/c.png", "n02/d.bmp", "e.gif", "f.tif", "g.tiff", "h.webp", "i.jpeg",
             "j.Png"]
    for seed, name in enumerate(names):
        save(tmp_path / "src" / name, seed=seed)
    assert prepare() == ("10 tensors in dst (10 made, 0 kept)\n", "")
    assert sorted(content(tmp_path / "dst")) == [f"{letter}.bin" for letter in "abcdefghij"] + ["manifest.json"]
    for name in names:
        expected = reference(tmp_path / "src" / name, 16, 12)
        written = np.fromfile(tmp_path / "dst" / f"{name.split('/')[-1][0]}.bin", "<u4")
        np.testing.assert_array_equal(written, expected.ravel())


def test_two_runs_write_the_same_bytes_whatever_the_jobs(prepare, tmp_path):
    for seed in range(40):
        save(tmp_path / f"src/{seed:02}.png", seed=seed)
    prepare("--jobs=1", dst="one")
    prepare("--jobs=2", dst="two")
    prepare("--jobs=2", dst="again")
    assert len(content(tmp_path / "one")) == 41
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "again")
    prepare("--jobs=2", dst="again")
    assert content(tmp_path / "one") == content(tmp_path / "again")


def test_dst_is_made_with_its_parents(prepare, images, tmp_path):
    assert prepare(dst="new/deep/dst")[0] == "3 tensors in new/deep/dst (3 made, 0 kept)\n"
    assert len(content(tmp_path / "new/deep/dst")) == 4


def test_names_end_at_their_first_dot(prepare, tmp_path):
    save(tmp_path / "src/a.b.c.png")
    prepare()
    assert sorted(content(tmp_path / "dst")) == ["a.bin", "manifest.json"]


def test_other_files_are_named(prepare, images):
    for name in ("val_label.txt", "sub/notes.txt", "archive.tar", "zip", "ILSVRC.JPEG.part1"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_text("x")
    assert prepare()[1] == ("src: 5 other files ignored "
                            "(src/ILSVRC.JPEG.part1, src/archive.tar, src/sub/notes.txt and 2 more)\n"
                            "src: 1 folders without a readable image: sub\n")


def test_a_linked_folder_and_a_linked_image_are_read(prepare, images, tmp_path):
    save(tmp_path / "elsewhere/d.png")
    (images / "n03").symlink_to(tmp_path / "elsewhere")
    (images / "link.png").symlink_to(tmp_path / "elsewhere/d.png")
    assert prepare() == ("5 tensors in dst (5 made, 0 kept)\n", "")
    written = np.fromfile(tmp_path / "dst/link.bin", "<u4")
    np.testing.assert_array_equal(written, reference(tmp_path / "elsewhere/d.png", 16, 12).ravel())


# ---- another run

def test_a_bin_carries_its_images_time_and_is_kept(prepare, images, tmp_path):
    prepare()
    before = {path.name: path.stat() for path in (tmp_path / "dst").glob("*.bin")}
    for name in ("a.JPEG", "b.png", "c.JPEG"):
        assert before[f"{name[0]}.bin"].st_mtime_ns == (images / name).stat().st_mtime_ns
    assert prepare() == ("3 tensors in dst (0 made, 3 kept)\n", "")
    after = {path.name: path.stat() for path in (tmp_path / "dst").glob("*.bin")}
    assert {name: (status.st_ino, status.st_ctime_ns) for name, status in before.items()} == \
        {name: (status.st_ino, status.st_ctime_ns) for name, status in after.items()}


def test_a_changed_image_is_done_again(prepare, images, tmp_path):
    prepare()
    before, listing = content(tmp_path / "dst"), manifest(tmp_path / "dst")["listing_sha256"]
    old = (images / "b.png").stat().st_mtime_ns
    save(images / "b.png", seed=99)
    os.utime(images / "b.png", ns=(old + 1, old + 1))
    assert prepare() == ("3 tensors in dst (1 made, 2 kept)\n",
                         "dst: 1 bins of changed or removed images removed\n")
    after = content(tmp_path / "dst")
    assert [name for name in before if before[name] != after[name]] == ["b.bin", "manifest.json"]
    assert after["b.bin"] == reference(images / "b.png", 16, 12).tobytes()
    assert manifest(tmp_path / "dst")["listing_sha256"] != listing


def test_a_bin_of_wrong_size_is_done_again(prepare, images, tmp_path):
    prepare()
    before = content(tmp_path / "dst")
    status = (images / "b.png").stat()
    os.truncate(tmp_path / "dst/b.bin", SMALL_BYTES - 4)
    os.utime(tmp_path / "dst/b.bin", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prepare()[0] == "3 tensors in dst (1 made, 2 kept)\n"
    assert content(tmp_path / "dst") == before


def test_the_bin_of_a_removed_image_is_removed(prepare, images, tmp_path):
    prepare()
    (images / "b.png").unlink()
    assert prepare() == ("2 tensors in dst (0 made, 2 kept)\n", "dst: 1 bins of changed or removed images removed\n")
    assert sorted(content(tmp_path / "dst")) == ["a.bin", "c.bin", "manifest.json"]
    assert manifest(tmp_path / "dst")["count"] == 2


@pytest.mark.parametrize("change, size", [
    ({"resize": 17}, SMALL_BYTES), ({"crop": 11}, 3 * 11 * 11 * 4), ({"interpolation": "bicubic"}, SMALL_BYTES),
])
def test_bins_of_another_recipe_are_done_again(prepare, images, tmp_path, change, size):
    prepare()
    wanted = {"resize": 16, "crop": 12, "interpolation": "bilinear", **change}
    words = [f"--{name}={value}" for name, value in wanted.items()]
    assert prepare(*words, small=()) == ("3 tensors in dst (3 made, 0 kept)\n",
                                         "dst: 3 bins of another recipe, source or decoder removed\n")
    assert {path.stat().st_size for path in (tmp_path / "dst").glob("*.bin")} == {size}
    assert (tmp_path / "dst/b.bin").read_bytes() == reference(images / "b.png", **wanted).tobytes()


def test_bins_of_another_source_are_done_again(prepare, images, tmp_path):
    """The same names, sizes and times, but other pixels."""
    for seed, path in enumerate(sorted(images.iterdir())):
        other = save(tmp_path / "other" / path.name, seed=seed + 50)
        os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    prepare()
    assert prepare(src="other") == ("3 tensors in dst (3 made, 0 kept)\n",
                                    "dst: 3 bins of another recipe, source or decoder removed\n")
    assert (tmp_path / "dst/b.bin").read_bytes() == reference(tmp_path / "other/b.png", 16, 12).tobytes()


@pytest.mark.parametrize("text", [None, "[]", "{}"])
def test_bins_that_were_not_made_here_are_left_alone(prepare, images, tmp_path, text):
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst/a.bin").write_text("precious")
    if text is not None:
        (tmp_path / "dst/manifest.json").write_text(text)
    before = content(tmp_path / "dst")
    refused = "dst: holds 1 .bin files but no manifest.json of this script, so they were not made here; use an empty " \
              "folder" if text != "[]" else "dst/manifest.json: not a manifest of img_preprocess.py; use another folder"
    assert prepare(status=3) == ("", f"img_preprocess.py: {refused}\n")
    assert content(tmp_path / "dst") == before


def test_a_manifest_that_cannot_be_read(prepare, images, tmp_path):
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst/manifest.json").write_text("{")
    assert prepare(status=3)[1].startswith("img_preprocess.py: dst/manifest.json: not a manifest of img_preprocess.py")


# ---- bad input

@pytest.fixture
def bad_images(images):
    """Three bad files among three good ones."""
    save(images / "cut.JPEG", size=(64, 64))
    data = (images / "cut.JPEG").read_bytes()
    (images / "cut.JPEG").write_bytes(data[:len(data) // 2])
    (images / "text.JPEG").write_text("404 Not Found\n")
    (images / "empty.JPEG").write_bytes(b"")
    return images


def test_unreadable_images_are_named_after_the_others_are_done(prepare, bad_images, tmp_path):
    out, err = prepare(status=3)
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 4
    assert [line.partition(": ")[0] for line in lines[:3]] == ["src/cut.JPEG", "src/empty.JPEG", "src/text.JPEG"]
    assert "truncated" in lines[0]
    assert lines[1].endswith("src/empty.JPEG: empty; download or copy it again")
    assert lines[2].endswith("src/text.JPEG: text ('404 Not Found\\n'...); download or copy it again")
    assert lines[3] == ("img_preprocess.py: 3 of 6 images are unreadable (listed above); "
                        "fix or remove them and rerun, or pass --on-error skip")
    assert sorted(content(tmp_path / "dst")) == ["a.bin", "b.bin", "c.bin", "manifest.json"]
    assert manifest(tmp_path / "dst")["complete"] is False
    assert (tmp_path / "dst/b.bin").read_bytes() == reference(tmp_path / "src/b.png", 16, 12).tobytes()


def test_folder_with_unreadable_images_is_not_listed_for_the_benchmark(prepare, bad_images, tmp_path):
    prepare(status=3)
    words = (sys.executable, SUITE / "gen_dataset_info.py", "bin", "dst", "x.info", "12", "12")
    result = run(*words, cwd=tmp_path, status=3)
    assert result.stderr == "gen_dataset_info.py: dst: img_preprocess.py did not finish here; rerun it\n"
    assert not (tmp_path / "x.info").exists()


def test_run_resumes_once_unreadable_images_are_fixed_or_removed(prepare, bad_images, tmp_path):
    prepare(status=3)
    save(bad_images / "cut.JPEG", size=(64, 64))
    (bad_images / "text.JPEG").unlink()
    assert prepare(status=3)[1].splitlines()[1].startswith("img_preprocess.py: 1 of 5 images are unreadable")
    (bad_images / "empty.JPEG").unlink()
    assert prepare() == ("4 tensors in dst (0 made, 4 kept)\n", "")
    assert manifest(tmp_path / "dst")["complete"] is True
    assert (tmp_path / "dst/cut.bin").read_bytes() == reference(bad_images / "cut.JPEG", 16, 12).tobytes()


@pytest.mark.parametrize("first, second, stem", [
    ("n01/x.JPEG", "n02/x.JPEG", "x"), ("x.jpg", "x.png", "x"), ("x.1.png", "x.2.png", "x"),
])
def test_two_images_of_one_name(prepare, images, tmp_path, first, second, stem):
    save(images / first)
    save(images / second)
    assert prepare(status=3) == ("", f"img_preprocess.py: src/{first} and src/{second} would both become {stem}.bin; "
                                     "rename one\n")
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize("size", [(1, 300_000), (300_000, 1)])
def test_an_image_of_too_many_pixels_is_bad(prepare, images, size):
    """Small as it is, with a short side of 333 it would take 100 million pixels."""
    Image.new("L", size).save(images / "huge.png")
    err = prepare("--resize=333", status=3)[1]
    assert err.startswith(f"src/huge.png: {size[0]}x{size[1]} is over the limit of 89478485 pixels, read or resized\n")


def test_no_image(prepare, tmp_path):
    (tmp_path / "src/sub").mkdir(parents=True)
    assert prepare(status=3) == ("", "img_preprocess.py: src: contains no image "
                                     "(.bmp .gif .jfif .jpe .jpeg .jpg .png .tif .tiff .webp)\n")
    assert not (tmp_path / "dst").exists()


def test_no_source(prepare, tmp_path):
    assert prepare(status=3) == ("", "img_preprocess.py: src: no such folder\n")
    (tmp_path / "src").write_text("a file")
    assert prepare(status=3) == ("", "img_preprocess.py: src: no such folder\n")
    assert not (tmp_path / "dst").exists()


def test_a_folder_that_cannot_be_read_ends_the_run(prepare, images, monkeypatch):
    """As root no mode bits keep a test out of a folder, so scandir plays the lock."""
    save(images / "n01/d.png")
    scandir = os.scandir

    def locked(path="."):
        if str(path).endswith("n01"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)
    monkeypatch.setattr(os, "scandir", locked)
    assert prepare(status=4) == ("", "img_preprocess.py: src/n01: Permission denied\n")


@pytest.mark.parametrize("words, message", [
    (("--resize=298", "--crop=299"), "--resize 298 is smaller than --crop 299: the crop would run over the edge"),
    (("--resize=298",), "--resize 298 is smaller than --crop 299: the crop would run over the edge"),
    (("--resize=0",), "argument --resize: invalid positive value: '0'"),
    (("--crop=-1",), "argument --crop: invalid positive value: '-1'"),
    (("--jobs=0",), "argument --jobs: invalid positive value: '0'"),
    (("--verify=x",), "argument --verify: invalid positive value: 'x'"),
    (("--interpolation=nearest",), "argument --interpolation: invalid choice: 'nearest'"),
    (("more",), "unrecognized arguments: more"),
])
def test_usage_errors(prepare, images, tmp_path, words, message):
    out, err = prepare(*words, status=2, small=())
    assert out == ""
    assert err.splitlines()[-1].startswith(f"img_preprocess.py: error: {message}")
    assert not (tmp_path / "dst").exists()


def test_resize_equal_to_crop_is_fine(prepare, images, tmp_path):
    prepare("--resize=12")
    assert (tmp_path / "dst/b.bin").read_bytes() == reference(tmp_path / "src/b.png", 12, 12).tobytes()


# ---- --verify

def test_verify_counts_what_it_compared(prepare, images):
    assert prepare("--verify=2")[0].splitlines() == [
        "3 tensors in dst (3 made, 0 kept)",
        "2 of 3 tensors compared with torchvision: every bit equal",
    ]
    assert prepare("--verify=999", "--interpolation=bicubic")[0].splitlines()[1] == \
        "3 of 3 tensors compared with torchvision: every bit equal"


@pytest.mark.parametrize("place", [0, SMALL_BYTES // 2 + 3, SMALL_BYTES - 1])
def test_verify_sees_one_flipped_bit(prepare, images, tmp_path, place):
    prepare()
    path = tmp_path / "dst/b.bin"
    data, status = bytearray(path.read_bytes()), path.stat()
    data[place] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prepare("--verify=3", status=1) == (
        "3 tensors in dst (0 made, 3 kept)\n",
        "img_preprocess.py: dst/b.bin: 1 of 432 values differ from torchvision's\n",
    )


# ---- trouble on the way

def test_an_obstacle_in_the_folder_is_one_line(prepare, images, tmp_path):
    (tmp_path / "dst/b.bin.part").mkdir(parents=True)
    assert prepare(status=4) == ("", "img_preprocess.py: dst/b.bin.part: Is a directory\n")
    (tmp_path / "dst/b.bin.part").rmdir()
    prepare()
    assert manifest(tmp_path / "dst")["complete"] is True


def test_dst_is_a_file(prepare, images, tmp_path):
    (tmp_path / "dst").write_text("a file")
    assert prepare(status=4) == ("", "img_preprocess.py: dst: File exists\n")


# A cv2 whose LUT works 20 times and then runs what follows
FAILING_LUT = """
import os, signal
import numpy as np
calls = 0

def setNumThreads(count):
    pass

def LUT(planes, table):
    global calls
    calls += 1
    if calls == 21:
        {}
    if calls > 20:
        raise RuntimeError("not to be printed: the parent is gone")
    return table.take(planes)
"""


@pytest.mark.parametrize("name, status, message", [
    ("SIGINT", 130, "img_preprocess.py: interrupted\n"), ("SIGTERM", 143, "img_preprocess.py: terminated\n"),
])
def test_an_interrupted_run_resumes(prepare, tmp_path, name, status, message):
    for seed in range(40):
        save(tmp_path / f"src/{seed:02}.png", seed=seed)
    env = fake_module(tmp_path / "fake", "cv2", FAILING_LUT.format(f"os.kill(os.getppid(), signal.{name})"))
    words = (sys.executable, SCRIPT, "src", "dst", *SMALL, "--jobs=1")
    result = run(*words, cwd=tmp_path, env=env, status=status)
    assert (result.stdout, result.stderr) == ("", message)
    assert sorted(content(tmp_path / "dst")) == [f"{i:02}.bin" for i in range(20)] + ["manifest.json"]
    assert manifest(tmp_path / "dst")["complete"] is False
    assert prepare() == ("40 tensors in dst (20 made, 20 kept)\n", "")
    prepare(dst="fresh")
    assert content(tmp_path / "dst") == content(tmp_path / "fresh")


def test_a_worker_that_dies_ends_the_run(tmp_path):
    for seed in range(30):
        save(tmp_path / f"src/{seed:02}.png", seed=seed)
    env = fake_module(tmp_path / "fake", "cv2", FAILING_LUT.format("os._exit(9)"))
    words = (sys.executable, SCRIPT, "src", "dst", *SMALL, "--jobs=1")
    result = run(*words, cwd=tmp_path, env=env, status=4)
    assert (result.stdout, result.stderr) == ("", "img_preprocess.py: a worker process died (out of memory?); "
                                                  "rerun with fewer --jobs\n")
    assert len(content(tmp_path / "dst")) == 21
    assert manifest(tmp_path / "dst")["complete"] is False


def test_help_reports_the_command(prepare):
    assert "python3 img_preprocess.py SRC DST" in prepare("--help")[0]
