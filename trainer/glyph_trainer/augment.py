"""Images bent a little, differently each time: one bilinear warp for a whole batch, inside the graph."""

import numpy as np
import tensorflow as tf

_DEGREES, _LOG_SCALE, _SHEAR, _SHIFT, _ELASTIC = 12.0, 0.12, 0.2, 2.0, 1.0
_ELASTIC_GRID = 6


def warp(images: tf.Tensor, strength: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Rotate, scale, shear, shift and stretch each image at random.

    At strength 1: rotation within 12 degrees, scale within a factor of exp(0.12) for each axis, shear within 0.2, shift
    within 2 pixels, and an elastic displacement with a standard deviation of 1 pixel at the points of a 6 x 6 grid.

    Args:
        images: [N, height, width, 1], any type; beyond the border is 0.
        strength: a factor for all of it, float32.
        seed: int [2]; the same seed bends in the same way.

    Returns:
        float32 [N, height, width, 1].
    """
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    draws = strength * tf.random.stateless_uniform([count, 6], seeds[0], -1.0, 1.0)
    angle = draws[:, 0] * _DEGREES * np.pi / 180
    scale_y, scale_x = tf.exp(draws[:, 1] * _LOG_SCALE), tf.exp(draws[:, 2] * _LOG_SCALE)
    shear = draws[:, 3] * _SHEAR
    shift = draws[:, 4:] * _SHIFT
    cosine, sine = tf.cos(angle), tf.sin(angle)
    matrix = tf.stack(
        [cosine * scale_y, (shear * cosine - sine) * scale_x, sine * scale_y, (shear * sine + cosine) * scale_x], axis=1
    )
    centre = np.array([(height - 1) / 2, (width - 1) / 2], np.float32)
    grid = np.array(list(np.ndindex(height, width)), np.float32)
    straight = tf.einsum("pk,njk->npj", grid - centre, tf.reshape(matrix, [-1, 2, 2]))
    knots = strength * _ELASTIC * tf.random.stateless_normal([count, _ELASTIC_GRID, _ELASTIC_GRID, 2], seeds[1])
    elastic = tf.reshape(tf.image.resize(knots, [height, width], "bicubic"), [count, height * width, 2])
    return _sample(images, straight + elastic + centre + shift[:, tf.newaxis])


def _sample(images: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """Read images between their pixels: points [N, P, 2], row and column, to [N, height, width, 1]."""
    height, width = images.shape[1:3]
    framed = tf.pad(tf.cast(images[..., 0], tf.float32), [[0, 0], [1, 1], [1, 1]])
    flat = tf.reshape(framed, [-1, (height + 2) * (width + 2)])
    limits = tf.constant([height + 0.999, width + 0.999], tf.float32)
    points = tf.clip_by_value(points + 1, 0.0, limits)
    corner = tf.floor(points)
    part = points - corner
    index = tf.cast(corner[..., 0] * (width + 2) + corner[..., 1], tf.int32)
    row, column = part[..., 0], part[..., 1]
    above = (1 - column) * tf.gather(flat, index, batch_dims=1) + column * tf.gather(flat, index + 1, batch_dims=1)
    index += width + 2
    below = (1 - column) * tf.gather(flat, index, batch_dims=1) + column * tf.gather(flat, index + 1, batch_dims=1)
    return tf.reshape((1 - row) * above + row * below, [-1, height, width, 1])
