"""The two implementations of docs/preprocessing.md, held together."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from glyph_client import Client, NoInk, Prediction, preprocess
from glyph_client._preprocess import preprocess_many
from numpy.typing import NDArray
from PIL import Image, ImageDraw

GREY = NDArray[np.uint8]
Graph = Callable[[Sequence[bytes]], GREY]


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The trainer's implementation, as a function that is traced as for export."""
    import tensorflow as tf
    from glyph_trainer.preprocess import preprocess_images

    function = tf.function(preprocess_images, input_signature=[tf.TensorSpec([None], tf.string)])
    return lambda files: np.asarray(function(tf.constant(list(files), tf.string)))


def seven(width: int = 120, height: int = 150, colour: int = 30, paper: int = 235) -> Image.Image:
    image = Image.new("L", (width, height), paper)
    line = [(width * 0.25, height * 0.2), (width * 0.75, height * 0.2), (width * 0.45, height * 0.85)]
    ImageDraw.Draw(image).line(line, fill=colour, width=max(2, width // 12))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def labels(outcomes: Any) -> list[str]:
    predictions = list(outcomes)
    assert all(isinstance(each, Prediction) for each in predictions), [
        e for e in predictions if isinstance(e, Exception)
    ]
    return [each.label for each in predictions]


def test_large_drawings_get_the_same_label_from_both_and_lose_no_accuracy(
    client: Client, drawings: list[Any], digits: GREY, truths: GREY
) -> None:
    indices = [drawing.index for drawing in drawings]
    files = [drawing.data for drawing in drawings]
    by_client = np.array(labels(client.predict_many(files)))
    by_graph = np.array(labels(client.predict_many(files[:800], server_side=True, batch_size=16)))
    untouched = np.array(labels(client.predict_many(digits[indices])))

    truth = truths[indices].astype(str)
    accuracy = np.mean(untouched == truth)
    assert accuracy > 0.9  # The comparison means nothing with a model that guesses.
    assert np.mean(by_client == truth) >= accuracy - 0.005
    assert np.mean(by_client[:800] == by_graph) >= 0.999  # The graph is slower; its pixels are the same (see below).


def test_large_drawings_become_the_same_pixels(graph: Graph, drawings: list[Any]) -> None:
    files = [drawing.data for drawing in drawings[:120]]
    images, errors = preprocess_many(files)
    assert not errors
    np.testing.assert_array_equal(images, graph(files))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_turns_the_picture_upright(
    graph: Graph, rotated: Callable[..., bytes], kind: str, orientation: int
) -> None:
    options = {"quality": 95} if kind == "JPEG" else {}
    upright, turned = (
        rotated(seven(), 1, format=kind, **options),
        rotated(seven(), orientation, format=kind, **options),
    )
    np.testing.assert_array_equal(preprocess(turned), graph([turned])[0])
    # The codec's blocks fall differently on a turned picture, so JPEG pixels differ a little.
    assert np.abs(preprocess(turned).astype(int) - preprocess(upright)).max() <= (60 if kind == "JPEG" else 0)


FILES = {
    "grey PNG": lambda: encoded(seven()),
    "one bit": lambda: encoded(seven().convert("1", dither=Image.Dither.NONE)),
    "palette": lambda: encoded(seven().convert("P")),
    "palette with a transparent colour": lambda: encoded(seven().convert("P"), transparency=235),
    "sixteen bits": lambda: encoded(Image.fromarray(np.asarray(seven()).astype(np.uint16) * 257)),
    "grey with alpha": lambda: encoded(seven().convert("LA")),
    "RGB JPEG": lambda: encoded(seven().convert("RGB"), "JPEG", quality=40),
    "grey JPEG": lambda: encoded(seven(), "JPEG"),
    "CMYK JPEG": lambda: encoded(seven().convert("RGB").convert("CMYK"), "JPEG"),
    "progressive JPEG": lambda: encoded(seven().convert("RGB"), "JPEG", progressive=True),
    "GIF": lambda: encoded(seven(), "GIF"),
    "animated GIF": lambda: encoded(
        seven(), "GIF", save_all=True, append_images=[Image.new("L", (120, 150), 7), seven(colour=90)]
    ),
    "grey BMP": lambda: encoded(seven(), "BMP"),
    "RGB BMP": lambda: encoded(seven().convert("RGB"), "BMP"),
    "light ink": lambda: encoded(seven(colour=230, paper=20)),
    "faint pencil": lambda: encoded(seven(colour=170, paper=235)),
    "thin and huge": lambda: encoded(seven(1900, 2300)),
    "tiny": lambda: encoded(seven(12, 15)),
    "four bits": lambda: encoded(seven().convert("P", palette=Image.Palette.ADAPTIVE, colors=9)),
    "a long strip": lambda: encoded(seven(220, 1500)),
    "ink at the edge": lambda: encoded(seven().crop((20, 20, 100, 140))),
    "28 x 28, black on white": lambda: encoded(seven(28, 28)),
    "28 x 28, white on black": lambda: encoded(seven(28, 28, colour=255, paper=0)),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_becomes_the_same_pixels(graph: Graph, name: str) -> None:
    data = FILES[name]()
    np.testing.assert_array_equal(preprocess(data), graph([data])[0])


def scrawl(random: np.random.Generator) -> bytes:
    """A picture as nobody would draw it: any size, any mode, noise and a line or two, perhaps turned."""
    width, height = (int(side) for side in random.integers(4, 100, 2))
    paper = random.integers(0, 256)
    grain = random.normal(0, random.choice([0, 4]), (height, width, 3))
    image = Image.fromarray((paper + grain).clip(0, 255).astype(np.uint8))
    ink = (int(paper) + 128) % 256
    for line in random.uniform(0, 1, (2, 2, 2)) * (width, height):
        ImageDraw.Draw(image).line([*map(tuple, line)], fill=(ink, ink, ink), width=1 + min(width, height) // 9)
    exif = Image.Exif()
    exif[0x0112] = int(random.integers(1, 9))
    mode = str(random.choice(["1", "L", "P", "RGB", "RGBA", "CMYK"]))
    if mode in {"CMYK", "RGB"}:
        return encoded(image.convert(mode), "JPEG", exif=exif, quality=int(random.integers(5, 60)))
    return encoded(image.convert(mode), exif=exif)


@pytest.mark.parametrize("seed", range(6))
def test_scrawls_become_the_same_pixels_to_the_last_bit(graph: Graph, seed: int) -> None:
    random = np.random.default_rng(seed)
    files = [scrawl(random) for _ in range(100)]
    images, errors = preprocess_many(files)
    good = [data for index, data in enumerate(files) if index not in errors]
    assert len(good) > 50
    np.testing.assert_array_equal(images, graph(good))


REFUSED = {
    "blank paper": (encoded(Image.new("L", (90, 120), 240)), "No ink"),
    "text": (b"hello, world", "no JPEG, PNG, GIF or BMP"),
    "nothing": (b"", "no JPEG, PNG, GIF or BMP"),
    "half a PNG": (encoded(seven())[:90], "PNG"),
    "half a JPEG": (encoded(seven(), "JPEG")[:300], "JPEG"),
}


@pytest.mark.parametrize("name", ["blank paper", "text", "nothing", "half a PNG", "half a JPEG"])
def test_what_is_no_digit_is_an_error_in_both(graph: Graph, name: str) -> None:
    import tensorflow as tf

    data, message = REFUSED[name]
    with pytest.raises(ValueError, match=r"ink|image"):
        preprocess(data)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        graph([encoded(seven()), data])


def test_in_a_jpeg_that_ends_anywhere_it_is_the_decoder_that_complains(
    graph: Graph, rotated: Callable[..., bytes]
) -> None:
    import tensorflow as tf
    from glyph_trainer.preprocess import _orientation

    whole = rotated(seven(), 6, format="JPEG")
    for end in range(3, len(whole) - 64, 16):
        # In the graph both run side by side, and the first error is the answer: looking for the EXIF data makes none.
        assert int(_orientation(tf.constant(whole[:end]))) in (1, 6)
        with pytest.raises(tf.errors.InvalidArgumentError, match="JPEG"):
            graph([whole[:end]])


def test_a_file_that_claims_gigabytes_is_refused_by_the_graph_before_it_is_decoded(graph: Graph) -> None:
    import tensorflow as tf

    bomb = bytearray(encoded(seven()))
    bomb[16:24] = b"\x00\x01\x00\x00\x00\x01\x00\x00"
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        graph([bytes(bomb)])


def test_an_empty_batch_stays_empty(graph: Graph) -> None:
    assert graph([]).shape == (0, 28, 28, 1)


def test_blank_paper_has_no_ink() -> None:
    with pytest.raises(NoInk, match=r"nothing stands out.*90 x 120 pixels"):
        preprocess(REFUSED["blank paper"][0])
