"""Single encoded pictures, JPEG or PNG, whose size is looked at before they are decoded."""

from __future__ import annotations

import io
import warnings

import numpy as np

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import check_image_size

_FORMATS = ("JPEG", "PNG")


def decode_picture(data: bytes, what: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode to (height, width, 3) uint8 RGB.

    Args:
        data: The bytes of a JPEG or PNG file.
        what: Named in messages.
        size: The (height, width) that it must have.

    Raises:
        FormatError: If it is neither, damaged, of another size, or not 8 bits per colour.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            check_image_size(what, picture.height, picture.width)
            if size is not None and (picture.height, picture.width) != size:
                raise FormatError(f"{what} is {picture.height}x{picture.width} pixels, expected {size[0]}x{size[1]}")
            if picture.mode not in ("RGB", "L", "RGBA", "P", "CMYK", "YCbCr"):
                raise FormatError(f"{what} has pixels of the mode {picture.mode!r}, not 8 bits per colour")
            return np.asarray(picture.convert("RGB"))
    except FormatError:
        raise
    except Exception as error:  # Pillow raises whatever its plug-ins meet in damaged bytes
        raise FormatError(f"{what} is not a JPEG or PNG picture: {error!s:.150}") from error
