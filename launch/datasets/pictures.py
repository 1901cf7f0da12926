"""Draws the items of a synthetic data set as product pictures.

What an item is (a shirt, a mug, ...) follows its category. How it looks follows its latent style:
the first dimension is the colour, the second the pattern (plain, dots, stripes, checks, ever
finer), the third the shape (slender to round); with fewer dimensions the shape follows both, with
more the angle of the pattern and its contrast follow the fourth and the fifth. Where it stands, how
it is turned and lit is chance. So an embedding model can find the style in the pixels, and a person
can see it.
"""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from scipy.special import ndtr
from tqdm import tqdm

from launch.datasets.product_shapes import SHAPES

LIST_FILE = "images.csv"
"""Ids and names of the pictures, in their directory; `launch.extract` reads it."""

_SCALE = 2  # Drawn twice as large and reduced: smooth edges.
_QUALITY = 88
# From cold to warm, so that near styles have near colours; a circle of hues would close.
_COLOURS = np.array(
    [
        (44, 44, 92), (45, 92, 160), (52, 150, 176), (66, 160, 120), (140, 178, 84),
        (226, 196, 82), (232, 148, 62), (214, 84, 62), (176, 50, 90), (106, 40, 94),
    ],
    float,
)  # fmt: skip
_CREAM = np.array((250, 244, 232), float)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Where pictures of items are to be written, and how large.

    Attributes:
        directory: An empty directory to write them into.
        size: Height and width, in pixels.
        shown_as: What the directory will be called when all is done.
    """

    directory: pathlib.Path
    size: int
    shown_as: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Look:
    """How an item looks; numbers from 0 to 1.

    Attributes:
        colour: From cold to warm.
        pattern: Plain, dots, stripes, checks; within each ever finer.
        shape: Slender to round.
        angle: Direction of the pattern.
        contrast: Of the pattern.
    """

    colour: float
    pattern: float
    shape: float
    angle: float = 0.25
    contrast: float = 0.8


def look_of(style: np.ndarray) -> Look:
    """Returns the look of a style, float [style_width], whose parts are standard normal.

    Example:
        >>> look_of(np.zeros(3))
        Look(colour=0.5, pattern=0.5, shape=0.5, angle=0.25, contrast=0.8)
    """
    shares = ndtr(np.asarray(style, float)).tolist()
    if len(shares) < 3:
        both = (style[0] - style[-1]) / math.sqrt(2) if len(shares) == 2 else style[0]
        shares = [shares[0], shares[-1], float(ndtr(both))]
    look = Look(*shares[:3])
    if len(shares) > 3:
        look = dataclasses.replace(look, angle=shares[3])
    if len(shares) > 4:
        look = dataclasses.replace(look, contrast=0.35 + 0.6 * shares[4])
    return look


def render(pictures: Pictures, style: np.ndarray, category: np.ndarray, *, seed: int) -> None:
    """Writes the pictures of all items, item-000017.jpg for item 17, and a list of them.

    Args:
        pictures: Where to.
        style: float [M, style_width].
        category: int64 [M].
        seed: Of what is chance; the same seed draws the same pictures.
    """
    directory = pictures.directory

    def write(item: int) -> None:
        rng = np.random.default_rng([seed, 4, item])
        picture = draw(look_of(style[item]), int(category[item]), pictures.size, rng)
        picture.save(directory / _name(item), quality=_QUALITY)

    items = range(len(style))
    # Threads: Pillow and numpy do the work outside of Python's lock.
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in tqdm(pool.map(write, items), "pictures", len(items), disable=None):
            pass
    with open(directory / LIST_FILE, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "path"])
        writer.writerows([item, _name(item)] for item in items)


def _name(item: int) -> str:
    return f"item-{item:06d}.jpg"


def draw(look: Look, category: int, size: int, rng: np.random.Generator) -> Image.Image:
    """Draws one item.

    Args:
        look: Its look.
        category: Decides what it is.
        size: Height and width of the picture.
        rng: For where it stands and how it is lit.
    """
    canvas = size * _SCALE
    outline = SHAPES[category % len(SHAPES)](look.shape)
    place = _placement(canvas, rng)
    mask = _filled(canvas, outline.body, outline.holes, place)
    details = _filled(canvas, outline.details, (), place)

    texture = _texture(look, canvas, rng)
    shade = _shading(mask, canvas, rng)[..., None]
    detail = np.asarray(details, np.float32)[..., None] / 255
    surface = texture * (1 - detail) + 0.62 * _colour(look.colour) * detail
    product = Image.fromarray(np.clip(surface * shade, 0, 255).astype(np.uint8))

    picture = _background(canvas, rng)
    picture = Image.composite(Image.new("RGB", picture.size, (96, 92, 90)), picture,
                              _shadow(mask, canvas))  # fmt: skip
    picture.paste(product, mask=mask)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def _placement(canvas: int, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """Maps points of the unit square to the canvas, a little shifted, scaled and turned."""
    scale = canvas * rng.uniform(0.68, 0.76)
    turn = math.radians(rng.normal(scale=2.5))
    centre = canvas * (0.5 + rng.uniform(-0.025, 0.025, size=2) - np.array([0, 0.02]))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return lambda points: (points - 0.5) @ rotation.T * scale + centre


def _filled(
    canvas: int,
    areas: Sequence[np.ndarray],
    holes: Sequence[np.ndarray],
    place: Callable[[np.ndarray], np.ndarray],
) -> Image.Image:
    mask = Image.new("L", (canvas, canvas))
    pen = ImageDraw.Draw(mask)
    for value, polygons in ((255, areas), (0, holes)):
        for polygon in polygons:
            pen.polygon([tuple(point) for point in place(polygon)], fill=value)
    return mask


def _colour(share: float) -> np.ndarray:
    at = share * (len(_COLOURS) - 1)
    low = min(int(at), len(_COLOURS) - 2)
    return _COLOURS[low] + (at - low) * (_COLOURS[low + 1] - _COLOURS[low])


def _texture(look: Look, canvas: int, rng: np.random.Generator) -> np.ndarray:
    """Colour and pattern, float [canvas, canvas, 3]."""
    base = _colour(look.colour)
    kind = min(int(look.pattern * 4), 3)
    fineness = look.pattern * 4 - kind
    period = canvas * (0.15 - 0.09 * fineness)
    turn = math.pi * look.angle
    grid = np.arange(canvas, dtype=np.float32)
    along = (grid[None] * math.cos(turn) + grid[:, None] * math.sin(turn)) / period
    across = (grid[:, None] * math.cos(turn) - grid[None] * math.sin(turn)) / period
    along += rng.random()
    across += rng.random()
    if kind == 0:
        amount = np.zeros((canvas, canvas), np.float32)
    elif kind == 1:
        amount = _step(0.30 - np.hypot(along % 1 - 0.5, across % 1 - 0.5), period)
    elif kind == 2:
        amount = _step(0.22 - np.abs(along % 1 - 0.5), period)
    else:
        bands = [_step(0.25 - np.abs(a % 1 - 0.5), period) for a in (along, across)]
        amount = (bands[0] + bands[1]) / 2
    amount = amount[..., None] * look.contrast
    return base * (1 - amount) + _CREAM * amount


def _step(distance: np.ndarray, period: float) -> np.ndarray:
    """0 outside and 1 inside, smooth over a pixel or two."""
    return np.clip(distance * period / 2 + 0.5, 0, 1)


def _shading(mask: Image.Image, canvas: int, rng: np.random.Generator) -> np.ndarray:
    """Brightness, float [canvas, canvas]: as of a rounded body lit from above, left or right."""
    # Blurred on a quarter of the size: four times the radius for the price of one.
    small = mask.resize((canvas // 4, canvas // 4)).filter(ImageFilter.GaussianBlur(canvas / 60))
    height = np.asarray(small, np.float32) / 255
    down, right = np.gradient(height)
    side = rng.choice((-1, 1)) * rng.uniform(0.5, 0.9)
    light = 1.0 + canvas / 70 * (down * 0.8 + right * side) + 0.12 * (height - 0.9)
    light = np.clip(light, 0.62, 1.22)
    smooth = Image.fromarray(light.astype(np.float32)).resize((canvas, canvas))
    return np.asarray(smooth) * rng.uniform(0.96, 1.04)


def _shadow(mask: Image.Image, canvas: int) -> Image.Image:
    soft = mask.resize((canvas // 4, canvas // 4)).filter(ImageFilter.GaussianBlur(canvas / 90))
    moved = ImageChops.offset(soft.resize((canvas, canvas)), 0, canvas // 45)
    return moved.point(lambda value: value * 0.42)


def _background(canvas: int, rng: np.random.Generator) -> Image.Image:
    grid = np.linspace(-1, 1, canvas, dtype=np.float32)
    distance = np.hypot(grid[None], grid[:, None] + 0.25)[..., None]
    tint = np.array([1.0, 0.992, 0.98]) * rng.uniform(0.985, 1.0)
    return Image.fromarray(np.clip((250 - 16 * distance**2) * tint, 0, 255).astype(np.uint8))
