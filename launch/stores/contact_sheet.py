"""A contact sheet: images, each in a row with its nearest neighbours, for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from launch.extraction.decoding import BrokenImageError, decode
from launch.stores.neighbours import Neighbours

_MARGIN, _GAP, _CAPTION, _HEADER = 24, 10, 22, 64
_INK, _GREY, _ACCENT, _EMPTY = (34, 34, 34), (120, 120, 120), (40, 110, 200), (236, 236, 236)


def contact_sheet(
    rows: Sequence[Neighbours],
    path_of: Mapping[int, str],
    *,
    title: str,
    subtitle: str = "",
    size: int = 128,
) -> Image.Image:
    """Draws the sheet.

    Args:
        rows: The images and their neighbours.
        path_of: File of each image; one without gets an empty tile.
        title: What the sheet shows.
        subtitle: In grey below.
        size: Pixels of a tile's side.
    """
    columns = 1 + max((len(row.ids) for row in rows), default=0)
    first_gap = 2 * _GAP  # Sets the image apart from its neighbours.
    width = 2 * _MARGIN + columns * (size + _GAP) - _GAP + first_gap
    height = _HEADER + _MARGIN + len(rows) * (size + _CAPTION + _GAP) + _MARGIN
    small, large = ImageFont.load_default(13), ImageFont.load_default(20)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    texts = [pen.textlength(title, large), pen.textlength(subtitle, small)]
    sheet = Image.new("RGB", (max(width, int(max(texts)) + 2 * _MARGIN), height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, _INK, large)
    pen.text((_MARGIN, _MARGIN + 28), subtitle, _GREY, small)
    for index, row in enumerate(rows):
        top = _HEADER + _MARGIN + index * (size + _CAPTION + _GAP)
        tiles = [(row.image, str(row.image))]
        tiles += [
            (image, f"{image}  \u00b7  {similar:.3f}")
            for image, similar in zip(row.ids.tolist(), row.similarities.tolist(), strict=True)
        ]
        for column, (image, caption) in enumerate(tiles):
            left = _MARGIN + column * (size + _GAP) + (first_gap if column else 0)
            _draw_tile(sheet, pen, (left, top), size, path_of.get(image), small)
            place = (left + size / 2, top + size + 4)
            pen.text(place, caption, _ACCENT if not column else _GREY, small, anchor="ma")
        frame = (_MARGIN - 2, top - 2, _MARGIN + size + 1, top + size + 1)
        pen.rectangle(frame, outline=_ACCENT, width=2)
    return sheet


def _draw_tile(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    size: int,
    path: str | None,
    font: ImageFont.FreeTypeFont,
) -> None:
    try:
        tile = decode(path, size, "pad") if path else None
    except BrokenImageError:
        tile = None
    if tile is not None:
        sheet.paste(Image.fromarray(np.asarray(tile)), place)
        return
    left, top = place
    pen.rectangle((left, top, left + size - 1, top + size - 1), fill=_EMPTY)
    pen.text((left + size / 2, top + size / 2), "no picture", _GREY, font, anchor="mm")
