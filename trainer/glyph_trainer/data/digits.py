"""The deck's data set: 42,000 digits as JPEG files named `label.index.jpg`."""

import errno
import io
import os
import re
from pathlib import Path

from PIL import Image

from glyph_trainer.data.mnist import read_mnist
from glyph_trainer.errors import DataError
from glyph_trainer.progress import task
from glyph_trainer.staging import flush_entry, staging_directory

DECK_IMAGES = 42_000
"""How many images the deck has. They are the first 42,000 of the 60,000 official training images, in their order; the
index in a file's name is the position there. The other 18,000 stay outside, for validation."""

_QUALITY = 95
_NAME = re.compile(r"[0-9]\.([0-9]+)\.jpg")


def build_digit_folder(directory: Path, mnist_directory: Path, count: int = DECK_IMAGES) -> bool:
    """Write training digits as `label.index.jpg`, unless they are there already.

    The folder appears whole or not at all: it is filled under a staging name beside it, flushed and renamed.

    Args:
        directory: the folder to make. It may exist if it is empty or already holds exactly these files.
        mnist_directory: where the MNIST files lie.
        count: how many images, from the first on.

    Returns:
        whether it was built now.

    Raises:
        DataError: the MNIST files cannot be used, or the folder holds something else.
    """
    if directory.is_dir() and any(directory.iterdir()):
        names = [path.name for path in directory.iterdir() if not path.name.startswith(".")]
        indices = {int(match[1]) for name in names if (match := _NAME.fullmatch(name))}
        if len(names) != count or indices != set(range(count)):
            raise DataError(
                f"{directory} already holds {len(names):,} files that are not the {count:,} digits "
                f"label.index.jpg. Remove it, or choose another folder"
            )
        return False
    if directory.exists() and not directory.is_dir():
        raise DataError(f"{directory} is no folder. It should hold images, or be missing to be made of digits")
    digits = read_mnist(mnist_directory).train
    if count > len(digits):
        raise DataError(f"there are {len(digits):,} official training images; {count:,} were asked for")
    digits = digits.take(slice(count))
    directory = directory.absolute()
    with staging_directory(directory.parent) as staging:
        with task(f"Writing {directory.name}", count, "images") as work:
            for index, (image, label) in enumerate(zip(digits.images[..., 0], digits.labels, strict=True)):
                content = io.BytesIO()  # given a file, Pillow overlooks what no longer fits onto the disk
                Image.fromarray(image).save(content, "JPEG", quality=_QUALITY)
                (staging / f"{digits.names[label]}.{index}.jpg").write_bytes(content.getvalue())
                work.advance()
        os.sync()  # one fsync a file would take longer than writing them all
        try:
            staging.rename(directory)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
                return build_digit_folder(directory, mnist_directory, count)
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            raise DataError(
                f"{directory} is a mount point and cannot be replaced by the finished folder. Name a folder inside it"
            ) from error
    flush_entry(directory.parent)
    return True
