import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from launch.extraction import decoding
from launch.extraction.decoding import BrokenImageError, decode

RED, GREEN, WHITE, GREY = (200, 30, 40), (30, 160, 60), (255, 255, 255), (100, 100, 100)


def flat(mode, colour, size=(40, 30)):
    return Image.new(mode, size, colour)


def close(pixels, colour, tolerance):
    assert pixels.dtype == np.uint8 and pixels.shape == (16, 16, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= tolerance, pixels[8, 8]


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.jpg", {"quality": 95}, 3),
        ("a.jpg", {"quality": 95, "progressive": True}, 3),
        ("a.png", {}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.webp", {"quality": 90}, 6),
        ("a.gif", {}, 0),
        ("a.bmp", {}, 0),
    ],
)
def test_each_format(tmp_path, name, options, tolerance):
    flat("RGB", RED).save(tmp_path / name, **options)
    close(decode(tmp_path / name, 16), RED, tolerance)


def test_a_name_that_lies_does_not_matter(tmp_path):
    flat("RGB", RED).save(tmp_path / "a.jpg", format="PNG")
    close(decode(tmp_path / "a.jpg", 16), RED, 0)


def test_cmyk(tmp_path):
    # Ink, not light: 255 of magenta and yellow is red. Adobe's JPEGs hold it inverted.
    flat("CMYK", (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    close(decode(tmp_path / "a.jpg", 16), (255, 0, 0), 6)


def test_greyscale(tmp_path):
    for name in ("a.jpg", "a.png"):
        flat("L", 100).save(tmp_path / name)
        close(decode(tmp_path / name, 16), GREY, 2)
    flat("1", 1).save(tmp_path / "b.png")
    close(decode(tmp_path / "b.png", 16), WHITE, 0)


def test_16_bits(tmp_path):
    grey = np.full((30, 40), 100 << 8 | 200, np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    close(decode(tmp_path / "a.png", 16), GREY, 0)
    write_16_bit_rgb(tmp_path / "b.png", RED)
    close(decode(tmp_path / "b.png", 16), RED, 1)


def write_16_bit_rgb(path, colour, size=20):
    """A PNG of 16 bits a channel, which Pillow reads but cannot write."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    line = b"\0" + b"".join(struct.pack(">H", value * 257) for value in colour) * size
    header = struct.pack(">IIBBBBB", size, size, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(line * size))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))


def test_what_is_transparent_is_white(tmp_path):
    flat("RGBA", (*RED, 0)).save(tmp_path / "a.png")
    close(decode(tmp_path / "a.png", 16), WHITE, 0)
    flat("RGBA", (0, 0, 0, 128)).save(tmp_path / "b.webp", lossless=True)
    close(decode(tmp_path / "b.webp", 16), (127, 127, 127), 1)
    flat("LA", (100, 255)).save(tmp_path / "c.png")
    close(decode(tmp_path / "c.png", 16), GREY, 0)
    palette = flat("P", 0)
    palette.putpalette([*RED, *GREEN])
    palette.save(tmp_path / "d.gif", transparency=0)
    close(decode(tmp_path / "d.gif", 16), WHITE, 0)
    palette.save(tmp_path / "e.png")
    close(decode(tmp_path / "e.png", 16), RED, 0)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_of_an_animation_the_first_frame(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    flat("RGB", RED).save(
        tmp_path / name, save_all=True, append_images=[flat("RGB", GREEN)], **options
    )
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 2
    close(decode(tmp_path / name, 16), RED, 0)


def test_the_orientation_that_a_camera_noted(tmp_path):
    picture = flat("RGB", RED)
    picture.paste(GREEN, (0, 0, 20, 30))  # The left half.
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees clockwise: the left half comes to the top.
    picture.save(tmp_path / "a.jpg", quality=95, exif=exif)
    pixels = decode(tmp_path / "a.jpg", 16).astype(int)
    assert np.abs(pixels[:6] - GREEN).max() < 12 and np.abs(pixels[10:] - RED).max() < 12


def test_how_it_becomes_a_square(tmp_path):
    wide = flat("RGB", RED, (80, 40))
    wide.paste(GREEN, (0, 0, 20, 40))  # The left quarter.
    wide.save(tmp_path / "a.png")
    stretched, cropped, padded = (decode(tmp_path / "a.png", 16, fit) for fit in decoding.FITS)
    assert (stretched[:, :3] == GREEN).all() and (stretched[:, 5:] == RED).all()
    assert (cropped[:, 1:] == RED).all()
    assert (padded[:3] == WHITE).all() and (padded[5:11, 5:] == RED).all()
    assert (padded[13:] == WHITE).all()


def test_a_large_jpeg_is_reduced_while_it_is_decoded(tmp_path):
    flat("RGB", RED, (2000, 1000)).save(tmp_path / "a.jpg", quality=95)
    close(decode(tmp_path / "a.jpg", 16), RED, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"this is no picture", "not a file of JPEG, PNG, WEBP, GIF, BMP"),
        (b"\xff\xd8\xff\xe0 cut", "Truncated File Read|not a file of"),
        ("cut.jpg", "truncated"),
        ("cut.png", "truncated|broken|Truncated"),
        ("cut.webp", "decode|truncated|not a file of|WebP"),
        ("tiff", "not a file of"),
    ],
)
def test_broken_files(tmp_path, rng, content, reason):
    path = tmp_path / "a.jpg"
    if isinstance(content, str):
        picture = Image.fromarray(rng.integers(0, 255, (60, 60, 3), dtype=np.uint8))
        whole = io.BytesIO()
        kind = {"cut.jpg": "JPEG", "cut.png": "PNG", "cut.webp": "WEBP", "tiff": "TIFF"}[content]
        picture.save(whole, kind)
        content = whole.getvalue() if kind == "TIFF" else whole.getvalue()[: whole.tell() // 2]
    path.write_bytes(content)
    with pytest.raises(BrokenImageError, match=reason):
        decode(path, 16)


def test_no_file_and_a_directory(tmp_path):
    with pytest.raises(BrokenImageError, match="there is no such file"):
        decode(tmp_path / "a.jpg", 16)
    with pytest.raises(BrokenImageError, match="directory"):
        decode(tmp_path, 16)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    flat("RGB", RED).save(tmp_path / "a.png")
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1199)
    with pytest.raises(BrokenImageError, match="40 x 30 pixels, more than 1,199"):
        decode(tmp_path / "a.png", 16)


def test_changed_bytes_are_a_picture_or_a_broken_image(tmp_path, rng):
    whole = io.BytesIO()
    noise = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    for kind in decoding.FORMATS:
        whole = io.BytesIO()
        noise.save(whole, kind)
        for _ in range(60):
            changed = bytearray(whole.getvalue())
            for at in rng.integers(0, len(changed), 8):
                changed[at] = rng.integers(256)
            (tmp_path / "a").write_bytes(changed)
            try:
                assert decode(tmp_path / "a", 16).shape == (16, 16, 3)
            except BrokenImageError as error:
                assert "\n" not in str(error)
