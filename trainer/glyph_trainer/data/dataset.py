"""Labelled images in memory, as bytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and what they show.

    Attributes:
        images: uint8 [N, height, width, 1], 0-255, white ink on black.
        labels: int32 [N], indices into `names`.
        names: the names of the classes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(
                f"Images are uint8 [N, height, width, channels]. "
                f"Received: images of {self.images.dtype} {self.images.shape}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"One label an image. Received: {len(self.images)} images, labels of shape {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int] | NDArray[np.integer] | slice) -> "Dataset":
        """Choose images.

        Args:
            indices: which, in which order.

        Returns:
            the chosen images with their labels; the same names.
        """
        return Dataset(self.images[indices], self.labels[indices], self.names)

    def shuffled(self, seed: int) -> "Dataset":
        """Shuffle, always in the same way for the same seed.

        Args:
            seed: any integer from 0 on.

        Returns:
            the same images in another order.
        """
        return self.take(np.random.default_rng(seed).permutation(len(self)))

    def split(self, first: int) -> tuple["Dataset", "Dataset"]:
        """Cut in two.

        Args:
            first: how many images go into the first part; at least 1 and at most N - 1.

        Returns:
            the first part and the rest.

        Raises:
            ValueError: one part would be empty.
        """
        if not 0 < first < len(self):
            raise ValueError(f"Both parts of a split need images. Received: first={first} of {len(self)} images")
        return self.take(slice(None, first)), self.take(slice(first, None))

    def fingerprint(self) -> str:
        """Identify the content.

        Returns:
            SHA-256, in hexadecimal, of the names, the shape, the labels and the pixels.
        """
        digest = hashlib.sha256(repr((self.names, self.images.shape)).encode())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()
