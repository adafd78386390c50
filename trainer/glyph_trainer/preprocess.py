"""Any picture of one digit to what the model reads: docs/preprocessing.md as TensorFlow operations.

It becomes part of the served graph (signature `image_bytes`). The client carries the same specification in NumPy and
Pillow. It is integer arithmetic up to the quotients at its end: the two give the same pixels, not merely similar ones.
"""

import tensorflow as tf

SIZE = 28
BOX = 20
LONGEST_SIDE = 128
BORDER_SHARE = 32
MIN_NOISE = 8
MIN_CONTRAST = 24
SPECK_SHARE = 24
MAX_TWIST = 64
MAX_PIXELS = 1 << 25
EXIF_ORIENTATION = 0x0112


def preprocess_images(image_bytes: tf.Tensor) -> tf.Tensor:
    """Turns image files into the model's input, inside a graph.

    Args:
        image_bytes: string [N], each the bytes of a JPEG, PNG, GIF (its first frame counts) or BMP of at most
            33,554,432 pixels.

    Returns:
        uint8 [N, 28, 28, 1], white ink on black.

    Raises:
        tf.errors.InvalidArgumentError: an element is no such image, is too large, or has no ink.
    """
    image_bytes = tf.ensure_shape(image_bytes, [None])
    one = tf.autograph.experimental.do_not_convert(_preprocess)
    return tf.map_fn(one, image_bytes, fn_output_signature=tf.TensorSpec([SIZE, SIZE, 1], tf.uint8))


def _preprocess(data: tf.Tensor) -> tf.Tensor:
    grey = _upright(_shrunk(_grey(data)), _orientation(data))
    untouched = tf.cond(
        tf.reduce_all(tf.shape(grey) == SIZE), lambda: _is_white_on_black(grey), lambda: tf.constant(value=False)
    )
    image = tf.cond(untouched, lambda: grey, lambda: _centred(_resized(_cropped(_ink(grey)))))
    return tf.cast(tf.ensure_shape(image, [SIZE, SIZE]), tf.uint8)[..., tf.newaxis]


# --- Files to grey ---------------------------------------------------------------------------------------------------


def _is_jpeg(data: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(data, 0, 3) == b"\xff\xd8\xff"


def _is_png(data: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(data, 0, 4) == b"\x89PNG"


def _is_gif(data: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(data, 0, 4) == b"GIF8"


def _grey(data: tf.Tensor) -> tf.Tensor:
    """Alpha over white, ITU-R 601 grey: int32 [height, width], 0-255."""
    raw = tf.io.decode_raw(tf.strings.join([tf.strings.substr(data, 0, 32), b"\0" * 32]), tf.uint8)
    header = tf.cast(raw, tf.int64)
    format_index = tf.where(_is_jpeg(data), 0, tf.where(_is_png(data), 1, tf.where(_is_gif(data), 2, 3)))

    # The pixels are counted before anything is decoded: a few bytes can claim gigabytes.
    height, width = tf.switch_case(
        format_index,
        [
            lambda: _pair(tf.cast(tf.io.extract_jpeg_shape(data), tf.int64)),
            lambda: (_big_endian(header[20:24]), _big_endian(header[16:20])),
            lambda: (_big_endian(header[9:7:-1]), _big_endian(header[7:5:-1])),
            # What is left must be a BMP, which is not compressed: it cannot claim more than it brings.
            lambda: _pair(tf.constant([1, 1], tf.int64)),
        ],
    )
    fits = tf.debugging.Assert(
        height * width <= MAX_PIXELS,
        ["The image has too many pixels (limit, height, width):", MAX_PIXELS, height, width],
    )
    known = tf.debugging.Assert(
        (format_index < 3) | (tf.strings.substr(data, 0, 2) == b"BM"),
        ["The bytes are no JPEG, PNG, GIF or BMP image. Received bytes:", tf.strings.length(data)],
    )
    with tf.control_dependencies([fits, known]):
        data = tf.identity(data)
    return tf.switch_case(
        format_index,
        [
            lambda: _luma(tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE", fancy_upscaling=True)),
            lambda: _luma(_over_white(tf.io.decode_png(data, channels=4), bits=header[24])),
            lambda: _luma(tf.io.decode_image(data, expand_animations=False)),
            lambda: _luma(tf.io.decode_image(data, expand_animations=False)),
        ],
    )


def _pair(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return shape[0], shape[1]


def _over_white(rgba: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Alpha over white: of uint8 [height, width, 4] the first three channels, int32."""
    # A slip of TensorFlow's decoder: opaque pixels of 1, 2 and 4 bits come with alpha 1, 3 and 15.
    filler = tf.cast(tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.minimum(bits, 8)) - 1, tf.uint8)
    is_opaque = (rgba[..., 3:] == 255) | (rgba[..., 3:] == filler)
    colour = tf.cast(rgba[..., :3], tf.int32)

    def blended() -> tf.Tensor:
        alpha = tf.where(is_opaque, 255, tf.cast(rgba[..., 3:], tf.int32))
        blend = colour * alpha + 255 * (255 - alpha) + 128
        return tf.bitwise.right_shift(blend + tf.bitwise.right_shift(blend, 8), 8)

    return tf.cond(tf.reduce_all(is_opaque), lambda: colour, blended)


def _luma(image: tf.Tensor) -> tf.Tensor:
    """ITU-R 601 in Pillow's integers, of one, three or four channels (the fourth, of a BMP, is padding)."""
    channels = tf.cast(image, tf.int32)
    last = tf.shape(channels)[2] - 1
    red, green, blue = (channels[..., tf.minimum(index, last)] for index in range(3))
    return tf.bitwise.right_shift(red * 19595 + green * 38470 + blue * 7471 + 32768, 16)


def _shrunk(grey: tf.Tensor) -> tf.Tensor:
    """Averages over whole squares until the longest side is under 256 pixels, as Pillow's `reduce` rounds them."""
    height, width = _size(grey)
    factor = tf.maximum(tf.maximum(height, width) // LONGEST_SIDE, 1)
    down, across = tf.minimum(factor, height), tf.minimum(factor, width)
    rows, columns = height // down, width // across
    squares = tf.reshape(grey[: rows * down, : columns * across], [rows, down, columns, across])
    total, area = tf.cast(tf.reduce_sum(squares, [1, 3]), tf.int64), tf.cast(down * across, tf.int64)
    return tf.cast((total + area // 2) * ((1 << 24) // area) // (1 << 24), tf.int32)


# --- Orientation -----------------------------------------------------------------------------------------------------


def _upright(grey: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def one_of(*values: int) -> tf.Tensor:
        return tf.reduce_any(orientation == tf.constant(values))

    grey = tf.cond(one_of(5, 6, 7, 8), lambda: tf.transpose(grey), lambda: grey)
    grey = tf.cond(one_of(2, 3, 6, 7), lambda: tf.reverse(grey, [1]), lambda: grey)
    return tf.cond(one_of(3, 4, 7, 8), lambda: tf.reverse(grey, [0]), lambda: grey)


def _orientation(data: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation of a JPEG or PNG, int32, 1 to 8; 1 where there is none."""
    # Zeros behind the end let every look-up be a plain one.
    raw = tf.cast(tf.io.decode_raw(tf.strings.join([data, b"\0" * 16]), tf.uint8), tf.int32)
    start = tf.cond(
        _is_jpeg(data),
        lambda: _jpeg_exif(raw),
        lambda: tf.cond(_is_png(data), lambda: _png_exif(raw), lambda: tf.constant(-1)),
    )
    return tf.cond(start >= 0, lambda: _tiff_orientation(raw, start), lambda: tf.constant(1))


def _jpeg_exif(raw: tf.Tensor) -> tf.Tensor:
    """Where the TIFF header of the APP1 Exif segment begins, or -1."""
    end = tf.size(raw) - 16

    def unfinished(position: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        # The scan (0xDA) ends the headers.
        return (start < 0) & (position + 4 <= end) & (raw[position] == 0xFF) & (raw[position + 1] != 0xDA)

    def step(position: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        is_fill = raw[position + 1] == 0xFF
        is_exif = (raw[position + 1] == 0xE1) & tf.reduce_all(
            raw[position + 4 : position + 10] == tf.constant(list(b"Exif\0\0"))
        )
        length = _big_endian(raw[position + 2 : position + 4])
        # A segment may claim more than the file has; the file's end is as far as a look-up may go.
        following = tf.minimum(position + tf.where(is_fill, 1, 2 + length), end)
        return following, tf.where(is_exif & ~is_fill, position + 10, start)

    _, start = tf.while_loop(unfinished, step, (tf.constant(2), tf.constant(-1)))
    return start


def _png_exif(raw: tf.Tensor) -> tf.Tensor:
    """Where the TIFF header of the eXIf chunk begins, or -1."""
    # Looking for the name and the TIFF header together (8 bytes) needs no loop over thousands of IDAT chunks.
    starts = tf.size(raw) - 8
    match = tf.fill([starts], value=True)
    for index, byte in enumerate(b"eXIf"):
        match &= raw[index : starts + index] == byte
    little, big = match, match
    for index, (a, b) in enumerate(zip(b"II*\0", b"MM\0*", strict=True), start=4):
        little &= raw[index : starts + index] == a
        big &= raw[index : starts + index] == b
    found = tf.where(little | big)
    return tf.cond(tf.size(found) > 0, lambda: tf.cast(found[0, 0], tf.int32) + 4, lambda: tf.constant(-1))


def _tiff_orientation(raw: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    is_little = raw[start] == ord("I")
    last = tf.size(raw) - 1

    def number(position: tf.Tensor, size: int) -> tf.Tensor:
        """Unsigned integers at those positions, int32 of the positions' shape; 0 beyond the end."""
        steps = tf.where(is_little, tf.range(size - 1, -1, -1), tf.range(size))
        where = position[..., tf.newaxis] + steps
        return _big_endian(tf.gather(raw, tf.where((where >= 0) & (where <= last), where, last)))

    directory = start + number(start + 4, 4)
    count = number(directory, 2)
    entries = directory + 2 + 12 * tf.range(count)
    kinds = number(entries + 2, 2)
    is_short, is_long = kinds == 3, kinds == 4  # should be the one, is the other in some files
    values = tf.where(is_short, number(entries + 8, 2), number(entries + 8, 4))
    values = tf.boolean_mask(values, (number(entries, 2) == EXIF_ORIENTATION) & (is_short | is_long))
    return tf.cond(tf.size(values) > 0, lambda: values[0], lambda: tf.constant(1))


def _big_endian(digits: tf.Tensor) -> tf.Tensor:
    """The number that the bytes on the last axis spell."""
    powers = tf.range(tf.shape(digits)[-1])[::-1]
    return tf.reduce_sum(digits * tf.cast(256**powers, digits.dtype), axis=-1)


# --- Grey to the model's input ---------------------------------------------------------------------------------------


def _size(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    shape = tf.shape(image)
    return shape[0], shape[1]


def _is_white_on_black(grey: tf.Tensor) -> tf.Tensor:
    border = tf.concat([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]], 0)
    dark = 2 * tf.math.count_nonzero(border <= 16, dtype=tf.int32) > tf.size(border)
    return dark & (tf.reduce_max(grey) >= 128)


def _ink(grey: tf.Tensor) -> tf.Tensor:
    """How far each pixel stands out of the background towards the ink, beyond the noise: int32 [height, width]."""
    height, width = _size(grey)
    down, across = tf.maximum(1, height // BORDER_SHARE), tf.maximum(1, width // BORDER_SHARE)

    def border(image: tf.Tensor) -> list[tf.Tensor]:
        sides = (image[:down], image[height - down :], image[:, :across], image[:, width - across :])
        return [tf.reshape(side, [-1]) for side in sides]

    top, bottom, left, right = (_quantile(side, 50) for side in border(grey))
    # No plane goes through the four sides if ink touches one of them.
    is_plane = tf.abs(left + right - top - bottom) <= MAX_TWIST
    level = tf.where(is_plane, top + bottom + left + right, 4 * _quantile(tf.concat(border(grey), 0), 50))
    slope_y = tf.where(is_plane, (bottom - top) * 32768 // tf.maximum(1, height - down), 0)
    slope_x = tf.where(is_plane, (right - left) * 32768 // tf.maximum(1, width - across), 0)
    y = tf.range(1 - height, height, 2) * slope_y
    x = tf.range(1 - width, width, 2) * slope_x
    rest = grey - tf.bitwise.right_shift(level * 16384 + 32768 + y[:, tf.newaxis] + x, 16)

    light = tf.reduce_sum(tf.cast(rest * rest * rest, tf.int64)) > 0
    noise = tf.maximum(MIN_NOISE, _quantile(tf.abs(tf.concat(border(rest), 0)), 98) * 3 // 2)
    return tf.maximum(0, tf.where(light, rest, -rest) - noise)


def _quantile(values: tf.Tensor, percent: int) -> tf.Tensor:
    """The value at that share of the sorted values, by counting: values are integers from 0."""
    rank = (tf.size(values) - 1) * percent // 100
    return tf.math.count_nonzero(tf.cumsum(tf.math.bincount(values)) <= rank, dtype=tf.int32)


def _cropped(ink: tf.Tensor) -> tf.Tensor:
    """The rectangle of the rows and columns in which enough pixels carry ink."""
    height, width = _size(ink)
    peak = tf.reduce_max(ink)
    inked = ink * 6 >= peak
    enough = tf.maximum(1, tf.maximum(height, width) // SPECK_SHARE)
    rows = _in_large_runs(tf.math.count_nonzero(inked, axis=1, dtype=tf.int32), enough)
    columns = _in_large_runs(tf.math.count_nonzero(inked, axis=0, dtype=tf.int32), enough)
    stands_out = tf.debugging.Assert(
        (peak >= MIN_CONTRAST) & tf.reduce_any(rows) & tf.reduce_any(columns),
        [
            "No ink in the image: nothing, or only specks, stands out from its background (height, width):",
            height,
            width,
        ],
    )
    with tf.control_dependencies([stands_out]):
        ink = tf.identity(ink)
    return ink[_first(rows) : height - _first(rows[::-1]), _first(columns) : width - _first(columns[::-1])]


def _in_large_runs(counts: tf.Tensor, enough: tf.Tensor) -> tf.Tensor:
    """Which lines belong to a run of neighbouring inked lines that has enough inked pixels: bool [length]."""
    inked = counts > 0
    starts = inked & ~tf.concat([[False], inked[:-1]], 0)
    run = tf.cumsum(tf.cast(starts, tf.int32))
    return inked & (tf.gather(tf.math.unsorted_segment_sum(counts, run, tf.size(counts) + 1), run) >= enough)


def _first(flags: tf.Tensor) -> tf.Tensor:
    return tf.argmax(tf.cast(flags, tf.int32), output_type=tf.int32)


def _resized(crop: tf.Tensor) -> tf.Tensor:
    """Longest side to 20 pixels, brightest pixel to 255: averages over areas, linear where it enlarges."""
    height, width = _size(crop)
    longest = tf.maximum(height, width)
    new_height = tf.maximum(1, (2 * BOX * height + longest) // (2 * longest))
    new_width = tf.maximum(1, (2 * BOX * width + longest) // (2 * longest))
    rows, heights = _summed(tf.cast(crop, tf.int64), new_height)
    columns, widths = _summed(tf.transpose(rows), new_width)
    area = heights[:, tf.newaxis] * widths
    resized = tf.cast(tf.transpose(columns), tf.float64) / tf.cast(area, tf.float64)
    return tf.cast(tf.floor(resized * (255.0 / tf.reduce_max(resized)) + 0.5), tf.int32)


def _summed(image: tf.Tensor, new_length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The rows summed up to so many, and how much of a row each sum covers, in units of 1 / (2 new_length) row.

    In that unit all positions are whole numbers; the sums are differences of running sums, read between the rows.
    """
    length, unit = tf.cast(tf.shape(image)[0], tf.int64), tf.cast(2 * new_length, tf.int64)
    centre = tf.range(1, unit, 2) * length
    reach = tf.maximum(length, unit // 2)
    start, end = tf.maximum(centre - reach, 0), tf.minimum(centre + reach, unit * length)
    before = tf.cumsum(image, exclusive=True)

    def sum_until(position: tf.Tensor) -> tf.Tensor:
        row = tf.minimum(position // unit, length - 1)
        return tf.gather(before, row) * unit + tf.gather(image, row) * (position - row * unit)[:, tf.newaxis]

    return sum_until(end) - sum_until(start), end - start


def _centred(resized: tf.Tensor) -> tf.Tensor:
    """Into 28 x 28 black, centre of mass as near to pixel (14, 14) as whole steps go."""
    height, width = _size(resized)
    top, left = _offset(tf.reduce_sum(resized, 1)), _offset(tf.reduce_sum(resized, 0))
    return tf.pad(resized, [[top, SIZE - height - top], [left, SIZE - width - left]])


def _offset(profile: tf.Tensor) -> tf.Tensor:
    length = tf.size(profile)
    mass = tf.reduce_sum(profile)
    moment = tf.reduce_sum(profile * tf.range(length))
    return tf.clip_by_value(-((2 * moment - 27 * mass) // (2 * mass)), 0, SIZE - length)
