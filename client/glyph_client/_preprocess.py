"""Any picture of one digit to what the model reads: docs/preprocessing.md in NumPy and Pillow.

The trainer carries the same specification as TensorFlow operations inside the served graph. It is integer arithmetic up
to the quotients at its end: the two give the same pixels, not merely similar ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from glyph_client._errors import NoInk, PictureError
from glyph_client._pictures import Group, Picture, open_picture, orientation_of

SIZE = 28
BOX = 20
LONGEST_SIDE = 128
BORDER_SHARE = 32
MIN_NOISE = 8
MIN_CONTRAST = 24
SPECK_SHARE = 24
MAX_TWIST = 64

_Grey = NDArray[np.uint8]
_Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Explanation:
    """What preprocessing made of a picture, stage by stage; every stage is a grey uint8 array [height, width].

    Attributes:
        grey: upright and grey, alpha laid over white, shrunk if it was huge.
        ink: the background removed: 0 is paper, 255 the strongest ink.
        crop: the rectangle of `ink` that holds the digit.
        resized: `crop` with its longest side at 20 pixels.
        result: what the model reads, [28, 28].
        untouched: True if the picture was 28 x 28, white on black already; then every stage is that picture.
    """

    grey: _Grey
    ink: _Grey
    crop: _Grey
    resized: _Grey
    result: _Grey
    untouched: bool

    def images(self) -> dict[str, Image.Image]:
        """The stages as pictures, in order."""
        stages = {"grey": self.grey, "ink": self.ink, "crop": self.crop, "resized": self.resized, "result": self.result}
        return {name: Image.fromarray(stage) for name, stage in stages.items()}


def preprocess(picture: Picture) -> _Grey:
    """Turns a picture of one digit into the model's input.

    Args:
        picture: a path, the bytes of an image file, an open binary file, a PIL image, or an array
            [height, width], [height, width, 1 | 3 | 4] of uint8 0-255 or of floats (see `open_picture`).

    Returns:
        uint8 [28, 28, 1], white ink on black.

    Raises:
        PictureError: the picture cannot be read.
        NoInk: nothing in the picture stands out from its background.
    """
    grey = _grey(open_picture(picture))
    result = grey if _is_ready(grey) else _centred(_resize(_crop(_ink(grey))))
    return result[..., np.newaxis]


def explain(picture: Picture) -> Explanation:
    """Like `preprocess`, with every stage on the way."""
    grey = _grey(open_picture(picture))
    if _is_ready(grey):
        return Explanation(grey, grey, grey, grey, grey, untouched=True)
    ink = _ink(grey)
    crop = _crop(ink)
    resized = _resize(crop)
    return Explanation(grey, _stretched(ink), _stretched(crop), resized, _centred(resized), untouched=False)


def preprocess_many(pictures: Group) -> tuple[_Grey, dict[int, PictureError]]:
    """Turns pictures into one batch.

    Returns:
        uint8 [n, 28, 28, 1] of those that can be read, in order, and the errors of the others by their index.
    """
    different = pictures[:1] if isinstance(pictures, np.ndarray) else pictures  # an array's pictures are of one kind
    if all(_is_grey(each) for each in different):
        batch: _Grey = np.asarray(pictures)
        if is_untouched(batch).all():
            return batch[..., np.newaxis], {}
    images, errors = [], {}
    for index, picture in enumerate(pictures):
        try:
            images.append(preprocess(picture))
        except PictureError as error:
            errors[index] = error
    return np.stack(images) if images else np.zeros((0, SIZE, SIZE, 1), np.uint8), errors


def _is_grey(picture: Picture) -> bool:
    return isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape == (SIZE, SIZE)


def is_untouched(images: _Grey) -> NDArray[np.bool_]:
    """Which of the grey images uint8 [N, 28, 28] are white on black already: bool [N]."""
    border = np.concatenate([images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1)
    dark = np.count_nonzero(border <= 16, axis=1) * 2 > border.shape[1]
    return np.asarray(dark & (images.max(axis=(1, 2)) >= 128))


def _is_ready(grey: _Grey) -> bool:
    return grey.shape == (SIZE, SIZE) and bool(is_untouched(grey[np.newaxis])[0])


def _grey(image: Image.Image) -> _Grey:
    """Alpha over white, ITU-R 601 grey, shrunk by whole numbers, upright: uint8 [height, width]."""
    orientation = orientation_of(image)
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGB", image.size, "white")
            white.paste(image, mask=image.getchannel("A"))
            image = white
        if image.mode == "CMYK":
            *colours, light = ImageChops.invert(image).split()
            image = Image.merge("RGB", [ImageChops.multiply(colour, light) for colour in colours])
        if image.mode != "L":
            image = image.convert("RGB").convert("L")
    except Exception as error:  # Pillow converts some modes not at all, and trips over broken transparency.
        raise PictureError(f"a picture of mode {image.mode} that cannot be made grey ({error}).") from error
    factor = max(image.size) // LONGEST_SIDE
    if factor > 1:
        # A picture thinner than the factor keeps its one row or column.
        across, down = min(factor, image.width), min(factor, image.height)
        image = image.crop((0, 0, image.width // across * across, image.height // down * down)).reduce((across, down))
    return _upright(np.asarray(image), orientation)


def _upright(grey: _Grey, orientation: int) -> _Grey:
    if orientation in {5, 6, 7, 8}:
        grey = grey.T
    if orientation in {2, 3, 6, 7}:
        grey = grey[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        grey = grey[::-1]
    return grey


def _ink(grey: _Grey) -> _Ints:
    """How far each pixel stands out of the background towards the ink, beyond the noise: int32 [height, width]."""
    values = grey.astype(np.int32)
    height, width = values.shape
    down, across = max(1, height // BORDER_SHARE), max(1, width // BORDER_SHARE)

    def border(image: _Ints) -> list[_Ints]:
        return [image[:down].ravel(), image[-down:].ravel(), image[:, :across].ravel(), image[:, -across:].ravel()]

    top, bottom, left, right = (_quantile(side, 50) for side in border(values))
    if abs(left + right - top - bottom) <= MAX_TWIST:
        level = top + bottom + left + right
        slope_y = (bottom - top) * 32768 // max(1, height - down)
        slope_x = (right - left) * 32768 // max(1, width - across)
    else:
        # No plane goes through these four sides: ink touches one of them.
        level, slope_y, slope_x = 4 * _quantile(np.concatenate(border(values)), 50), 0, 0
    y = np.arange(1 - height, height, 2, dtype=np.int32) * np.int32(slope_y)
    x = np.arange(1 - width, width, 2, dtype=np.int32) * np.int32(slope_x)
    rest = values - (((level << 14) + 32768 + y[:, np.newaxis] + x) >> 16)

    light = int((rest * rest * rest).sum(dtype=np.int64)) > 0
    noise = max(MIN_NOISE, _quantile(np.abs(np.concatenate(border(rest))), 98) * 3 // 2)
    return np.maximum(0, (rest if light else -rest) - np.int32(noise))


def _quantile(values: _Ints, percent: int) -> int:
    """The value at that share of the sorted values, by counting: values are integers from 0."""
    rank = (values.size - 1) * percent // 100
    return int(np.searchsorted(np.cumsum(np.bincount(values)), rank, side="right"))


def _crop(ink: _Ints) -> _Ints:
    """The rectangle of the rows and columns in which enough pixels carry ink."""
    peak = int(ink.max())
    if peak < MIN_CONTRAST:
        raise NoInk(
            "no ink in the picture: nothing stands out from its background. "
            f"Received: {ink.shape[1]} x {ink.shape[0]} pixels with a contrast of {peak} of 255 beyond the noise "
            f"(at least {MIN_CONTRAST} is needed). Give a picture of one digit, darker or lighter than its background, "
            "with some background on all sides."
        )
    inked = ink * 6 >= peak
    enough = max(1, max(ink.shape) // SPECK_SHARE)
    rows = np.flatnonzero(_in_large_runs(np.count_nonzero(inked, axis=1), enough))
    columns = np.flatnonzero(_in_large_runs(np.count_nonzero(inked, axis=0), enough))
    if not rows.size or not columns.size:
        raise NoInk(
            "no ink in the picture: only specks stand out from its background. "
            f"Received: {ink.shape[1]} x {ink.shape[0]} pixels. Give a picture in which the digit is drawn larger."
        )
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _in_large_runs(counts: NDArray[np.int64], enough: int) -> NDArray[np.bool_]:
    """Which lines belong to a run of neighbouring inked lines that has enough inked pixels: bool [length]."""
    inked = counts > 0
    starts = inked & ~np.concatenate([[False], inked[:-1]])
    run = np.cumsum(starts)
    return np.asarray(inked & (np.bincount(run, weights=counts)[run] >= enough))


def _resize(crop: _Ints) -> _Grey:
    """Longest side to 20 pixels, brightest pixel to 255: averages over areas, linear where it enlarges."""
    height, width = crop.shape
    longest = max(height, width)
    new_height = max(1, (2 * BOX * height + longest) // (2 * longest))
    new_width = max(1, (2 * BOX * width + longest) // (2 * longest))
    rows, heights = _summed(crop.astype(np.int64), new_height)
    columns, widths = _summed(rows.T, new_width)
    resized = columns.T / (heights[:, np.newaxis] * widths)
    scaled: _Grey = np.floor(resized * (255.0 / resized.max()) + 0.5).astype(np.uint8)
    return scaled


def _summed(image: NDArray[np.int64], new_length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows summed up to so many, and how much of a row each sum covers, in units of 1 / (2 new_length) row.

    In that unit all positions are whole numbers; the sums are differences of running sums, read between the rows.
    """
    length, unit = len(image), 2 * new_length
    centre = np.arange(1, unit, 2) * length
    reach = max(length, new_length)
    start, end = np.maximum(centre - reach, 0), np.minimum(centre + reach, unit * length)
    before = np.cumsum(image, axis=0) - image

    def sum_until(position: NDArray[np.int64]) -> NDArray[np.int64]:
        row = np.minimum(position // unit, length - 1)
        return np.asarray(before[row] * unit + image[row] * (position - row * unit)[:, np.newaxis])

    return sum_until(end) - sum_until(start), end - start


def _centred(resized: _Grey) -> _Grey:
    """Into 28 x 28 black, centre of mass as near to pixel (14, 14) as whole steps go."""
    result = np.zeros((SIZE, SIZE), np.uint8)
    top = _offset(resized.sum(axis=1, dtype=np.int64))
    left = _offset(resized.sum(axis=0, dtype=np.int64))
    result[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return result


def _offset(profile: NDArray[np.int64]) -> int:
    mass = int(profile.sum())
    moment = int((profile * np.arange(profile.size)).sum())
    return min(max(-((2 * moment - 27 * mass) // (2 * mass)), 0), SIZE - profile.size)


def _stretched(ink: _Ints) -> _Grey:
    stretched: _Grey = (ink * 255 // ink.max()).astype(np.uint8)
    return stretched
