"""Bent images: a little, at random, the same for the same seed."""

import numpy as np
import tensorflow as tf
from glyph_trainer.augment import warp
from glyph_trainer.data.mnist import read_mnist_test


def test_no_strength_leaves_images_as_they_are() -> None:
    images = read_mnist_test().images[:20]
    bent = warp(tf.constant(images), tf.constant(0.0), tf.constant([1, 2])).numpy()
    np.testing.assert_allclose(bent, images, atol=1e-2)


def test_the_seed_decides() -> None:
    images = tf.constant(read_mnist_test().images[:20])
    first, again, other = (warp(images, tf.constant(1.0), tf.constant([1, seed])).numpy() for seed in (2, 2, 3))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_bent_digit_keeps_its_ink_and_its_place() -> None:
    images = read_mnist_test().images[:200].astype(np.float32)
    bent = warp(tf.constant(images), tf.constant(1.0), tf.constant([1, 2])).numpy()
    assert bent.min() >= 0
    assert bent.max() <= 255.01
    ink = bent.sum(axis=(1, 2, 3)) / images.sum(axis=(1, 2, 3))
    assert 0.9 < np.median(ink) < 1.1
    rows = np.arange(28)
    centres = [(each.sum(axis=(2, 3)) * rows).sum(axis=1) / each.sum(axis=(1, 2, 3)) for each in (images, bent)]
    assert 0.3 < np.abs(centres[1] - centres[0]).mean() < 3
