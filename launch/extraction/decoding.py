"""Image files as arrays of pixels: JPEG, PNG, WebP, GIF and BMP, of every kind that shops have."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from amstf.errors import AmstfError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
FITS = ("stretch", "crop", "pad")
"""How a picture that is no square becomes one."""

DECODER = f"Pillow {Image.__version__}, bilinear with antialiasing"

MAX_PIXELS = 100_000_000
"""A larger picture takes more than 300 MB for each thread, and is more often an attack than a
product."""

_WHITE = (255, 255, 255)


class BrokenImageError(AmstfError):
    """An image file that cannot be used; the message says why."""


def decode(path: str | os.PathLike[str], size: int, fit: str = "stretch") -> np.ndarray:
    """Reads an image file.

    What it is is told by its content, not by its name. Of an animation the first frame counts. The
    orientation that a camera noted is applied. What is transparent becomes white, as shops show
    it; greyscale and CMYK become RGB, 16 bits a channel become 8.

    Args:
        path: The file.
        size: Height and width wanted, in pixels.
        fit: "stretch" changes the ratio of the sides, "crop" cuts what is too long on both sides,
            "pad" adds white.

    Returns:
        RGB, uint8 [size, size, 3].

    Raises:
        BrokenImageError: If it is no such file, or is cut, damaged or larger than MAX_PIXELS.
    """
    try:
        if not os.path.getsize(path):
            raise BrokenImageError("the file is empty")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BrokenImageError(
                    f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}"
                )
            # A JPEG is decoded at half or a quarter of its size where that is still twice ours.
            image.draft("RGB", (2 * size, 2 * size))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_fitted(_as_rgb(image), size, fit))
    except (BrokenImageError, MemoryError):
        raise
    except FileNotFoundError:
        raise BrokenImageError("there is no such file") from None
    except UnidentifiedImageError:
        raise BrokenImageError(f"not a file of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise BrokenImageError(str(error)) from error
    except Exception as error:  # Damaged files raise whatever the decoder stumbles upon.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenImageError(reason) from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would cut 16 bits off at 255 and show white.
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(grey >> 8, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (*_WHITE, 255))
        image = Image.alpha_composite(white, with_alpha)
    return image if image.mode == "RGB" else image.convert("RGB")


def _fitted(image: Image.Image, size: int, fit: str) -> Image.Image:
    wanted, bilinear = (size, size), Image.Resampling.BILINEAR
    if fit == "crop":
        return ImageOps.fit(image, wanted, bilinear)
    if fit == "pad":
        return ImageOps.pad(image, wanted, bilinear, color=_WHITE)
    return image.resize(wanted, bilinear)
