"""The handwritten digits that every request carries: real pictures whose answer is known.

`data/digits.npz` holds the first 64 of the 10,000 official test images of MNIST (Y. LeCun, C. Cortes, C. Burges):
`images` is uint8 [64, 28, 28, 1], `labels` is uint8 [64]. It was made by running this module on the two genuine files:

    python -m glyph_loadtest.digits t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz
"""

import gzip
import io
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

_COUNT = 64


@dataclass(frozen=True)
class Digits:
    """Known digits: `images` uint8 [N, 28, 28, 1], white ink on black, and the N `labels`, '0' to '9'."""

    images: npt.NDArray[np.uint8]
    labels: tuple[str, ...]


def known_digits() -> Digits:
    """Reads the digits that come with the package."""
    with files(__package__).joinpath("data/digits.npz").open("rb") as file, np.load(file) as arrays:
        return Digits(arrays["images"], tuple(str(label) for label in arrays["labels"]))


def as_jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    """Encodes one image, uint8 [28, 28, 1], as a grey JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def read_idx(images: Path, labels: Path, count: int = _COUNT) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Reads the first images, uint8 [count, 28, 28, 1], and labels, uint8 [count], of a pair of MNIST's gzip files."""
    with gzip.open(images) as file:
        pixels = np.frombuffer(file.read(16 + count * 784), np.uint8, offset=16)
    with gzip.open(labels) as file:
        answers = np.frombuffer(file.read(8 + count), np.uint8, offset=8)
    return pixels.reshape(count, 28, 28, 1), answers


if __name__ == "__main__":
    chosen, answers = read_idx(Path(sys.argv[1]), Path(sys.argv[2]))
    np.savez_compressed(Path(__file__).parent / "data" / "digits.npz", images=chosen, labels=answers)
