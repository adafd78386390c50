"""Folders of images: read exactly, from a cache that is never stale, with every bad file listed."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from glyph_trainer.data.folder import CACHE, Folder, read_folder
from glyph_trainer.data.mnist import read_mnist
from glyph_trainer.errors import DataError, UnusableFilesError
from glyph_trainer.preprocess import preprocess_images
from PIL import Image, ImageOps

from tests.trainer.conftest import COMMAND, Run


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    """Twenty of the digits, to be spoilt."""
    copy = tmp_path / "digits"
    copy.mkdir()
    for index, path in enumerate(sorted(small_folder.glob("*.jpg"))):
        if index % 70 == 0:
            shutil.copy(path, copy)
    return copy


def read_settled(folder: Path) -> Folder:
    """Read a folder once its files are old enough for the cache to be trusted."""
    newest = max(path.stat().st_ctime_ns for path in folder.rglob("*"))
    while time.time_ns() - newest < 60_000_000:
        time.sleep(0.01)  # waits for the file system's clock, not for another process
    return read_folder(folder)


def test_the_folder_holds_the_first_training_digits(small_folder: Path) -> None:
    official = read_mnist().train.take(slice(1400))
    dataset = read_folder(small_folder).dataset
    assert dataset.names == tuple("0123456789")
    assert np.array_equal(dataset.labels, official.labels)
    difference = np.abs(dataset.images.astype(int) - official.images)
    assert difference.mean() < 1, "JPEG changes pixels, but hardly"


def test_pixels_are_those_of_pillow(folder: Path) -> None:
    dataset = read_folder(folder).dataset
    paths = sorted(folder.glob("*.jpg"), key=lambda path: int(path.name.split(".")[1]))
    for image, path in zip(dataset.images, paths, strict=True):
        with Image.open(path) as opened:
            assert np.array_equal(image[..., 0], np.asarray(opened))


def test_shuffling_and_splitting_depend_on_the_seed_alone(small_folder: Path) -> None:
    dataset = read_folder(small_folder).dataset
    first, rest = dataset.shuffled(5).split(1000)
    again, _ = dataset.shuffled(5).split(1000)
    other, _ = dataset.shuffled(6).split(1000)
    assert len(first) == 1000
    assert len(rest) == 400
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_class_folders_are_read(tmp_path: Path) -> None:
    shades = {"cat": 140, "dog": 200, "10": 250, "9": 190}
    for name, shade in shades.items():
        (tmp_path / name).mkdir()
        for index in range(2):
            picture = Image.new("L", (28, 28))
            picture.paste(shade + index, (10, 10, 20, 20))
            picture.save(tmp_path / name / f"picture {index}.png")
    dataset = read_folder(tmp_path).dataset
    assert dataset.names == ("9", "10", "cat", "dog"), "numbers by value, then names"
    seen = zip(dataset.labels[::2], dataset.images[::2, 14, 14, 0].tolist(), strict=True)
    assert {dataset.names[label]: shade for label, shade in seen} == shades


@pytest.mark.parametrize("format_", ["png", "jpg"])
@pytest.mark.parametrize("kind", ["dark on light", "faint"])
def test_28_x_28_pictures_that_are_not_white_on_black_are_read_as_they_are_served(
    kind: str, format_: str, tmp_path: Path
) -> None:
    for index, digit in enumerate(read_mnist().train.images[:9, ..., 0]):
        pixels = 255 - digit if kind == "dark on light" else digit // 3
        Image.fromarray(pixels).save(tmp_path / f"5.{index}.{format_}", quality=95)
    folder = read_folder(tmp_path)
    contents = [(tmp_path / f"5.{index}.{format_}").read_bytes() for index in range(9)]
    served = tf.function(preprocess_images)(tf.constant(contents)).numpy()
    assert np.array_equal(folder.dataset.images, served)
    assert folder.resized == 9


def test_any_format_and_size_is_read_as_the_served_model_reads_it(tmp_path: Path) -> None:
    digit = read_mnist().train.images[0, ..., 0]
    picture = ImageOps.invert(Image.fromarray(digit).resize((90, 90)))
    formats = [("png", "L"), ("bmp", "RGB"), ("gif", "P"), ("tiff", "L"), ("webp", "RGB"), ("ppm", "RGB")]
    for index, (extension, mode) in enumerate(formats):
        picture.convert(mode).save(tmp_path / f"5.{index}.{extension}", lossless=True)
    served = tf.function(preprocess_images)(tf.constant([(tmp_path / "5.0.png").read_bytes()])).numpy()
    folder = read_folder(tmp_path)
    assert folder.resized == len(formats)
    assert np.array_equal(folder.dataset.images, np.repeat(served, len(formats), axis=0))


def test_a_second_read_comes_from_the_cache(folder: Path) -> None:
    first = read_settled(folder)
    second = read_folder(folder)
    assert not first.cached
    assert second.cached
    assert first.dataset.fingerprint() == second.dataset.fingerprint()


def test_the_cache_is_never_stale(folder: Path) -> None:
    assert not read_settled(folder).cached
    first, second, third = sorted(folder.glob("*.jpg"))[:3]

    state = first.stat()
    content = bytearray(first.read_bytes())
    content[-20] ^= 1
    first.write_bytes(content)
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))
    changed = read_settled(folder)
    assert not changed.cached, "same name, same size, same time of modification; other content"

    second.rename(folder / second.name.replace(second.name[0], "5", 1))
    renamed = read_settled(folder)
    assert not renamed.cached

    third.unlink()
    assert len(read_settled(folder).dataset) == len(renamed.dataset) - 1

    (folder / CACHE).write_bytes(b"no cache")
    assert not read_settled(folder).cached, "a damaged cache is not used"
    assert read_folder(folder).cached, "but replaced"


def test_a_cache_is_not_written_while_a_change_could_bear_the_same_time(folder: Path) -> None:
    next(folder.glob("*.jpg")).touch()
    read_folder(folder)
    newest = max(path.stat().st_ctime_ns for path in folder.glob("*.jpg"))
    cache = folder / CACHE
    assert not cache.exists() or cache.stat().st_ctime_ns - newest > 50_000_000


def test_undecodable_images_are_all_named(folder: Path) -> None:
    spoilt, other = sorted(folder.glob("*.jpg"))[3:9:5]
    spoilt.write_bytes(spoilt.read_bytes()[:300])
    other.write_bytes(b"no image at all")
    Image.new("L", (300, 200), 255).save(folder / "3.99999.jpg")
    read = read_folder(folder)
    assert len(read.dataset) == 18
    assert [file.name for file in read.unreadable] == sorted(
        (spoilt.name, other.name, "3.99999.jpg"), key=lambda name: int(name.split(".")[1])
    )
    reasons = {file.name: file.reason for file in read.unreadable}
    assert reasons[spoilt.name].startswith("it cannot be decoded (")
    assert reasons[other.name] == "it is no image"
    assert "No ink in the image" in reasons["3.99999.jpg"]


def test_a_folder_of_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "7.1.jpg").write_bytes(b"no image")
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UnusableFilesError, match=r"2 files cannot be used.*\n.*holiday\.jpg.*\n.*7\.1\.jpg"):
        read_folder(tmp_path)


def test_hidden_files_are_no_images(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"left by a file manager")
    assert len(read_folder(folder).dataset) == 20


def test_a_missing_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is no folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no images"):
        read_folder(tmp_path)


def test_a_file_name_without_a_label_stops_the_command_before_the_training(
    glyph_train: Run, folder: Path, tmp_path: Path
) -> None:
    (folder / "holiday.jpg").write_bytes(b"")
    done = glyph_train("run", "--data-dir", folder, "--models-dir", tmp_path / "models", "--batch-size", 10)
    assert done.returncode == 2
    assert "  1 without a label, left out" in done.stdout
    assert "Epoch" not in done.stdout
    assert done.stderr.startswith(f"glyph-train: error: {folder}: 1 file cannot be used. Repair or remove them")
    assert "holiday.jpg: its name has no label: it should look like 7.123.jpg" in done.stderr
    assert not list((tmp_path / "models" / "digits").iterdir())


def sideways(folder: Path) -> Image.Image:
    """The first of the digits as a picture that says of itself that it lies on its side."""
    first = min(folder.glob("*.jpg"))
    with Image.open(first) as image:
        image.load()
    metadata = Image.Exif()
    metadata[0x0112] = 6
    image.save(first, "JPEG", quality=100, exif=metadata)
    return ImageOps.exif_transpose(Image.open(first))


def test_metadata_of_small_pictures_counts_also_where_all_are_small(folder: Path) -> None:
    upright = np.asarray(sideways(folder))
    dataset = read_folder(folder).dataset
    assert any(np.array_equal(image[..., 0], upright) for image in dataset.images)


def test_small_transparent_pictures_are_not_taken_for_opaque_ones(folder: Path) -> None:
    first = min(folder.glob("*.jpg"))
    with Image.open(first) as image:
        ink = Image.merge("LA", (Image.new("L", image.size), image.copy()))
    ink.save(first, "PNG")
    assert read_folder(folder).resized == 1, "it takes the way of what is sent to the server"


def test_pictures_of_16_bits_keep_the_upper_eight(folder: Path) -> None:
    first = min(folder.glob("*.jpg"))
    with Image.open(first) as image:
        pixels = np.asarray(image)
    for format_ in ("PNG", "TIFF"):
        Image.fromarray(pixels.astype(np.uint16) << 8 | 0x7F).save(first, format_)
        assert any(np.array_equal(image[..., 0], pixels) for image in read_folder(folder).dataset.images)


def test_the_palette_of_a_bmp_is_looked_at(folder: Path) -> None:
    first = min(folder.glob("*.jpg"))
    with Image.open(first) as image:
        large = ImageOps.invert(image.convert("L")).resize((280, 280))
    order = np.random.default_rng(0).permutation(256)
    shuffled = Image.fromarray(np.argsort(order)[np.asarray(large)].astype(np.uint8), "P")
    shuffled.putpalette(np.repeat(order, 3).astype(np.uint8).tobytes())
    read = []
    for picture, format_ in ((large, "PNG"), (shuffled, "BMP"), (large.convert("1", dither=Image.Dither.NONE), "BMP")):
        picture.save(first, format_)
        read.append(read_folder(folder).dataset.images.astype(int))
    assert np.array_equal(read[0], read[1])
    assert np.abs(read[0] - read[2]).max() < 255, "black and white is hardly another picture"


def test_what_is_no_file_is_listed_with_the_others(folder: Path) -> None:
    (folder / "1.1000000.jpg").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "1.1000001.jpg")
    unusable = {file.name: file.reason for file in read_folder(folder).unreadable}
    assert unusable == {"1.1000000.jpg": "it is no image", "1.1000001.jpg": "it is no image"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"caf\xe9.1.jpg", r"a file whose name is not UTF-8: b'caf\\xe9\.1\.jpg'"),
        (b"a\nb/1.jpg", r"class 'a\\nb' has a line"),
    ],
)
def test_names_that_no_list_of_labels_can_hold_are_an_error(folder: Path, name: bytes, message: str) -> None:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    shutil.copy(min(folder.glob("*.jpg")), path)
    with pytest.raises(DataError, match=message):
        read_folder(folder)


def test_a_locale_that_cannot_read_a_name_is_told_of(glyph_train: Run, folder: Path) -> None:
    (folder / "é").mkdir()
    shutil.copy(min(folder.glob("*.jpg")), folder / "é" / "1.jpg")
    plain = ["env", "LC_ALL=C", "PYTHONUTF8=0", str(COMMAND), "validate", "--data-dir", str(folder)]
    done = subprocess.run(plain, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert r"holds b'\xc3\xa9/1.jpg', and this locale reads names as ascii. Set PYTHONUTF8=1" in done.stderr
    assert glyph_train("validate", "--data-dir", folder).returncode == 0


def test_an_empty_cache_is_no_cache(folder: Path) -> None:
    read_settled(folder)
    (folder / CACHE).write_bytes(b"")
    assert not read_settled(folder).cached


def test_a_broken_avif_file_is_listed_with_the_others(folder: Path) -> None:
    with Image.open(min(folder.glob("*.jpg"))) as digit:
        digit.resize((280, 280)).save(folder / "1.1000000.avif")
    headers, mark, pixels = (folder / "1.1000000.avif").read_bytes().partition(b"mdat")
    (folder / "1.1000001.avif").write_bytes(headers + mark + bytes(len(pixels)))
    read = read_folder(folder)
    assert len(read.dataset) == 21
    (broken,) = read.unreadable
    assert broken.name == "1.1000001.avif"
    assert broken.reason.startswith("it cannot be decoded (")
