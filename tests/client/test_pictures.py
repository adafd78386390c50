"""Any picture in: what is read, by which rule, and what is refused with which words."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glyph_client import AmbiguousPicture, Client, NoInk, PictureError, PictureTooLarge, explain, preprocess
from glyph_client._pictures import name_of, read_bytes
from glyph_client._preprocess import preprocess_many
from PIL import Image, ImageDraw

PICTURE = Image.new("L", (90, 110), 240)
ImageDraw.Draw(PICTURE).line([(20, 20), (70, 20), (40, 95)], fill=20, width=9)
GREY = np.asarray(PICTURE)
FILE = io.BytesIO()
PICTURE.save(FILE, "PNG")
BYTES = FILE.getvalue()
EXPECTED = preprocess(BYTES)


def test_a_path_bytes_a_file_an_image_and_an_array_are_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "seven.png"
    path.write_bytes(BYTES)
    pictures: list[Any] = [
        path,
        str(path),
        BYTES,
        bytearray(BYTES),
        memoryview(BYTES),
        io.BytesIO(BYTES),
        PICTURE,
        GREY,
    ]
    for picture in pictures:
        np.testing.assert_array_equal(preprocess(picture), EXPECTED)


@pytest.mark.parametrize(
    "array",
    [
        GREY[..., None],
        np.dstack([GREY] * 3),
        np.dstack([GREY] * 3 + [np.full_like(GREY, 255)]),
        GREY.astype(np.int64),
        GREY.astype(np.uint16),
        GREY.astype(np.float64),
        GREY.astype(np.float32) / 255,
    ],
    ids=["one channel", "RGB", "RGBA", "int64", "uint16", "float 0-255", "float 0-1"],
)
def test_arrays_of_every_shape_and_type_are_the_same_picture(array: Any) -> None:
    np.testing.assert_array_equal(preprocess(array), EXPECTED)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"])
def test_images_of_every_mode_are_read(mode: str) -> None:
    image = PICTURE.convert(mode, dither=Image.Dither.NONE)
    if mode == "I;16":
        image = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert np.abs(preprocess(image).astype(int) - EXPECTED).mean() < 12


def test_booleans_are_black_and_white() -> None:
    assert preprocess(GREY < 128).max() == 255


def test_ink_of_either_polarity_is_the_same() -> None:
    np.testing.assert_array_equal(preprocess(255 - GREY), EXPECTED)


def test_specks_away_from_the_digit_do_not_count() -> None:
    large = np.asarray(PICTURE.resize((360, 440)))
    dirty = large.copy()
    dirty[5:7, 330:332] = 0
    dirty[430, 8] = 0
    # They lie neither beside nor above the digit, and are too few to pass for the paper's noise: no pixel changes.
    np.testing.assert_array_equal(preprocess(dirty), preprocess(large))


def test_a_speck_beside_the_digit_widens_it_by_no_more_than_itself() -> None:
    large = np.asarray(PICTURE.resize((360, 440)))
    dirty = large.copy()
    columns = np.flatnonzero(explain(large).crop.max(axis=0))
    dirty[5:7, 300:302] = 0
    assert 0 <= explain(dirty).crop.shape[1] - columns.size <= 2
    assert explain(dirty).crop.shape[0] == explain(large).crop.shape[0]


def test_a_thin_stroke_is_kept() -> None:
    page = Image.new("L", (500, 600), 245)
    ImageDraw.Draw(page).line([(250, 100), (250, 500)], fill=60, width=3)
    result = preprocess(page)[..., 0]
    assert len(np.flatnonzero(result.max(axis=1))) == 20


def test_a_shadow_across_the_page_is_background() -> None:
    shaded = np.clip(GREY - np.linspace(0, 60, GREY.shape[1]) * (GREY / 240), 0, 255).astype(np.uint8)
    assert np.abs(preprocess(shaded).astype(int) - EXPECTED).mean() < 6


def test_a_band_of_another_shade_along_one_side_is_background() -> None:
    banded = GREY.copy()
    banded[-8:] = 170
    difference = preprocess(banded).astype(int) - EXPECTED
    assert np.abs(difference).max() <= 1  # Pure black on pure paper: only the scaling's rounding can differ.


def test_a_batch_of_arrays_is_answered_one_by_one_where_one_must_be_changed() -> None:
    ready = np.zeros((28, 28), np.uint8)
    ready[4:24, 12:16] = 255
    images, errors = preprocess_many([ready, 255 - ready, np.zeros((28, 28), np.uint8)])
    np.testing.assert_array_equal(images[0, ..., 0], ready)
    assert (images.shape, list(errors)) == ((2, 28, 28, 1), [2])


def test_the_centre_of_mass_lies_in_the_middle() -> None:
    result = EXPECTED[..., 0].astype(float)
    for axis in (0, 1):
        assert 13.5 <= (result.sum(axis=1 - axis) @ np.arange(28)) / result.sum() < 14.5


def test_every_stage_can_be_seen() -> None:
    stages = explain(PICTURE)
    assert not stages.untouched
    assert stages.grey.shape == stages.ink.shape == (110, 90)
    assert max(stages.resized.shape) == 20
    assert (stages.ink[0, 0], stages.ink.max(), stages.crop.max(), stages.resized.max()) == (0, 255, 255, 255)
    np.testing.assert_array_equal(stages.result, EXPECTED[..., 0])
    assert all(isinstance(image, Image.Image) for image in stages.images().values())


def _closed() -> io.BytesIO:
    file = io.BytesIO(BYTES)
    file.close()
    return file


@pytest.mark.parametrize(
    ("picture", "kind", "message"),
    [
        ("missing.png", PictureError, "missing.png: No such file or directory. Give the path"),
        (b"no picture", PictureError, r"no image that can be read. Received: 10 bytes that begin with b'no pictu'"),
        (b"", PictureError, "Received: 0 bytes"),
        (BYTES[:70], PictureError, "the image is damaged and cannot be decoded"),
        ("a\0b", PictureError, "embedded null byte. Give the path"),
        (io.StringIO("x"), PictureError, "open in binary mode"),
        (_closed(), PictureError, "the file cannot be read .I/O operation on closed file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", PictureError, "PostScript is a program"),
        (Image.new("La", (9, 9)), PictureError, "of mode La that cannot be made grey"),
        (7, PictureError, "Received: int. Give a path, bytes"),
        (np.zeros((2, 28, 28), np.uint8), PictureError, r"Received: \[2, 28, 28\].*a batch goes to predict_many"),
        (np.zeros((9, 9, 2), np.uint8), PictureError, r"Received: \[9, 9, 2\]"),
        (np.zeros((0, 9), np.uint8), PictureError, "the picture is empty"),
        (Image.new("L", (0, 5)), PictureError, "the picture is empty. Received: 0 x 5 pixels"),
        (np.full((9, 9), "a"), PictureError, "an array of type <U1 is no picture"),
        (np.full((9, 9), -1.0), PictureError, "between 0 and 255, or 0 and 1. Received: float64 from -1 to -1"),
        (np.full((9, 9), np.nan), PictureError, "Received: float64 from nan to nan"),
        (np.full((9, 9), 300), PictureError, "Received: int64 from 300 to 300"),
        (np.eye(9) * 1.5, AmbiguousPicture, "0 to 1 or 0 to 255. Received: float64 from 0 to 1.5"),
        (np.eye(9, dtype=int), AmbiguousPicture, "Received: int64 from 0 to 1"),
        (
            np.broadcast_to(np.uint8(0), (10_000, 10_000)),
            PictureTooLarge,
            r"Received: \[10000, 10000\] \(limit 89,478,485",
        ),
        (Image.new("1", (10_000, 10_000)), PictureTooLarge, "Received: 10,000 x 10,000"),
        (np.full((50, 50), 200, np.uint8), NoInk, "nothing stands out.*50 x 50 pixels with a contrast of 0"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(picture: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as error:
        preprocess(picture)
    assert isinstance(error.value, PictureError | ValueError)


def _with_chunk(kind: bytes, content: bytes) -> bytes:
    """The picture as a PNG with another chunk after its header."""
    chunk = len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    return BYTES[:33] + chunk + BYTES[33:]


@pytest.mark.parametrize("exif", [b"garbage!", b"X", b"II*\0"])
def test_an_orientation_that_cannot_be_read_counts_as_upright(exif: bytes) -> None:
    np.testing.assert_array_equal(preprocess(_with_chunk(b"eXIf", exif)), EXPECTED)


def test_a_bomb_in_a_pictures_text_is_refused() -> None:
    with pytest.raises(PictureError, match="the image is damaged and cannot be decoded"):
        preprocess(_with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))))


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "SGI", "TGA", "PCX", "DDS"]
)
def test_a_damaged_file_is_read_or_refused(kind: str) -> None:
    file = io.BytesIO()
    PICTURE.convert("RGB").save(file, kind)
    whole, dice = file.getvalue(), random.Random(1)  # noqa: S311 (no secret)
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(dice.choice([1, 3, 30])):
            damaged[dice.randrange(min(len(damaged), dice.choice([40, 400, 99_999])))] = dice.randrange(256)
        with contextlib.suppress(PictureError):
            assert preprocess(bytes(damaged)).shape == (28, 28, 1)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I"), ("TIFF", "F")])
def test_pictures_of_many_bits_are_turned_as_their_exif_says(kind: str, mode: str) -> None:
    values = GREY if mode == "F" else GREY.astype(np.uint16) * 257
    image = Image.fromarray(values.T[::-1].astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    np.testing.assert_array_equal(preprocess(file.getvalue()), EXPECTED)


def test_the_transparent_value_of_a_picture_of_16_bits_is_white() -> None:
    values = GREY.astype(np.uint16) * 257
    paper = int(values.max())
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", transparency=paper)
    seen = np.where(values == paper, 255, values >> 8).astype(np.uint8)
    np.testing.assert_array_equal(preprocess(file.getvalue()), preprocess(seen))


def test_a_ppm_file_of_10_bits_keeps_its_upper_8() -> None:
    values = (GREY.astype(np.uint16) * 4).astype(">u2")
    header = b"P5 %d %d 1023\n" % (GREY.shape[1], GREY.shape[0])
    assert np.abs(preprocess(header + values.tobytes()).astype(int) - EXPECTED).max() <= 2


def test_a_pfm_file_is_read() -> None:
    header = b"Pf\n%d %d\n-1.0\n" % (GREY.shape[1], GREY.shape[0])
    values = (GREY[::-1] / np.float32(255)).astype("<f4")  # from the bottom to the top
    np.testing.assert_array_equal(preprocess(header + values.tobytes()), EXPECTED)


def test_specks_alone_are_no_ink() -> None:
    page = np.full((100, 120), 240, np.uint8)
    page[50, 60] = page[70, 20:22] = 0
    with pytest.raises(NoInk, match="only specks"):
        preprocess(page)


def test_a_decompression_bomb_is_refused_unopened() -> None:
    bomb = bytearray(BYTES)
    bomb[16:24] = b"\x00\x01\x00\x00\x00\x01\x00\x00"
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(PictureTooLarge, match="pixels"):
        preprocess(bytes(bomb))


def test_messages_call_pictures_by_name(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        assert name_of(file).endswith("a.png")
    assert (name_of("b.png"), name_of(b""), name_of(GREY)) == ("b.png", "bytes", "array uint8 [110, 90]")


def test_only_files_can_be_sent_as_they_are() -> None:
    with pytest.raises(PictureError, match="Received: ndarray"):
        read_bytes(GREY)


def test_a_file_that_cannot_be_read_is_that_one_picture_s_error_whatever_it_raises(client: Client) -> None:
    with gzip.open(io.BytesIO(gzip.compress(BYTES)[:-20])) as cut:
        pictures: list[Any] = [BYTES, cut, BYTES]
        outcomes = list(client.predict_many(pictures, server_side=True))
    assert [isinstance(outcome, PictureError) for outcome in outcomes] == [False, True, False]
    assert "the file cannot be read" in str(outcomes[1])


def test_seconds_may_be_of_any_kind_of_number(client: Client) -> None:
    kinds: list[Any] = [np.float32(20), Fraction(41, 2)]
    assert all(client.status(timeout=seconds) for seconds in kinds)


def test_zeros_are_blank_paper_of_whatever_type() -> None:
    with pytest.raises(NoInk):
        preprocess(np.zeros((28, 28), int))
