"""Images that anyone may send: what is decoded, and what is refused with a line that says why."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rocmforge.artifacts.errors import RequestError
from rocmforge.runtime.pictures.decode import FORMATS, decode_image
from rocmforge.runtime.pictures.limits import DEFAULT_LIMITS
from rocmforge.runtime.pictures.read import GivenImage, image_bytes, read_images
from rocmforge.tests.support.pictures import VISION, png

SMALL = replace(DEFAULT_LIMITS, file_bytes=5000, pixels=2000, side=100, ratio=10)


def file_of(image: Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def refusal(data: bytes) -> str:
    with pytest.raises(RequestError) as caught:
        decode_image(data, "image", SMALL)
    assert caught.value.parameter == "image"
    return str(caught.value).removeprefix("image: ")


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format(kind: str) -> None:
    found = decode_image(file_of(Image.new("RGB", (7, 5), (250, 10, 20)), kind), "image")
    assert (found.mode, found.size) == ("RGB", (7, 5))
    assert np.abs(np.array(found, int)[2, 3] - [250, 10, 20]).max() <= 12  # JPEG and WEBP round


@pytest.mark.parametrize(
    "image, kind, expected",
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 128)), "PNG", (255, 127, 127)),
        (Image.new("LA", (2, 2), (0, 255)), "PNG", (0, 0, 0)),
        (Image.new("L", (2, 2), 77), "PNG", (77, 77, 77)),
        (Image.new("1", (2, 2), 1), "PNG", (255, 255, 255)),
        (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", (255, 0, 0)),
        (Image.fromarray(np.full((2, 2), 100 << 8, np.uint16)), "PNG", (100, 100, 100)),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), "PNG", (255, 255, 255)),
    ],
    ids=["clear", "half-clear", "gray-alpha", "gray", "two-colours", "cmyk", "16-bits", "16-bits-white"],
)
def test_modes_become_rgb(image: Image.Image, kind: str, expected: tuple[int, ...]) -> None:
    assert decode_image(file_of(image, kind), "image").getpixel((0, 0)) == expected


def test_a_colour_that_stands_for_nothing_is_white() -> None:
    image = Image.new("P", (2, 2), 3)
    image.putpalette([10, 20, 30] * 4)
    assert decode_image(file_of(image, "PNG", transparency=3), "image").getpixel((0, 0)) == (255, 255, 255)


def test_an_image_is_turned_as_it_says() -> None:
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    found = decode_image(file_of(image, "PNG", exif=exif), "image")
    assert (found.size, found.getpixel((1, 0))) == ((2, 4), (255, 255, 255))


def test_of_one_that_moves_the_first_is_seen() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for kind in ("GIF", "PNG", "WEBP"):
        data = file_of(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert decode_image(data, "image").getpixel((1, 1)) == (255, 0, 0)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its few bytes hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", "expected an image, found no bytes"),
        (b"x" * 5001, "expected an image of at most 5000 bytes, found 5001"),
        (b"hello", "expected an image in PNG, JPEG, WEBP, GIF or BMP, found 5 bytes of something else"),
        (file_of(Image.new("RGB", (4, 4)), "TIFF"), "expected an image in PNG, JPEG, WEBP, GIF or BMP, found "),
        (bomb(60, 50), "expected at most 2000 pixels and 100 a side, found an image of 60 x 50"),
        (bomb(101, 1), "expected at most 2000 pixels and 100 a side, found an image of 101 x 1"),
        (bomb(30000, 30000), "the image cannot be decoded: "),  # Pillow's own limit comes first
        (bomb(44, 4), "expected a side at most 10 times as long as the other, found an image of 44 x 4"),
        (bomb(40, 40), "the image cannot be decoded: "),
        (png(30, 30)[:500], "the image cannot be decoded: image file is truncated"),
    ],
    ids=["none", "bytes", "text", "tiff", "pixels", "side", "bomb", "ratio", "promises", "cut"],
)
def test_what_is_refused_F107(data: bytes, expected: str) -> None:
    assert refusal(data).startswith(expected)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FORMATS), st.integers(0, 400), st.binary(min_size=1, max_size=8), st.integers(0, 400))
def test_damaged_files_are_decoded_or_refused_F107(kind: str, at: int, change: bytes, cut: int) -> None:
    """Whatever the bytes: an image within the limits, or one line."""
    data = bytearray(file_of(Image.effect_noise((20, 16), 60).convert("RGB"), kind))
    data[at % len(data) : at % len(data) + len(change)] = change
    line = ""
    try:
        found = decode_image(bytes(data[: len(data) - cut % len(data)]), "image", SMALL)
    except RequestError as error:
        line = str(error)
    else:
        assert found.mode == "RGB"
        assert found.width * found.height <= SMALL.pixels
    assert "\n" not in line


def given_image(source: str | bytes) -> GivenImage:
    return GivenImage(source, "messages[0]")


@pytest.mark.parametrize("before", ["", "data:image/png;base64,", "data:;base64,", "DATA:image/x;charset=x;BASE64,"])
def test_base64_and_data_urls(before: str) -> None:
    data = png(4, 4)
    text = base64.b64encode(data).decode()
    assert image_bytes(given_image(before + text)) == data
    assert image_bytes(given_image(f"{before}{text[:20]}\r\n {text[20:]}\n")) == data
    assert image_bytes(given_image(data)) == data


@pytest.mark.parametrize(
    "source, expected",
    [
        ("", "expected base64 or a data: URL, found nothing"),
        ("https://x.example/a.png", "expected a data: URL or base64, found a URL of https: images are not fetched"),
        ("file:///etc/passwd", "expected a data: URL or base64, found a URL of file: images are not fetched"),
        ("data:image/svg+xml,<svg/>", "expected data:image/...;base64, and the image, found another data: URL"),
        ("data:image/png;base64", "expected data:image/...;base64, and the image, found another data: URL"),
        ("a=b=", "expected base64, found something else"),
        ("ä" * 8, "expected base64, found something else"),
        ("A" * 10000, "expected an image of at most 5000 bytes, found more"),
    ],
)
def test_sources_that_are_refused_F107(source: str, expected: str) -> None:
    with pytest.raises(RequestError) as caught:
        image_bytes(given_image(source), SMALL)
    assert str(caught.value) == f"messages[0]: {expected}"


def test_marks_cannot_be_guessed() -> None:
    marks = {GivenImage("", "x").mark for _ in range(1000)}
    assert len(marks) == 1000
    assert {len(mark) for mark in marks} == {37}


def test_images_of_a_request_are_bounded_in_number_and_time_F107() -> None:
    images = [given_image(png(16, 16, seed)) for seed in range(3)]
    assert list(read_images(images, VISION)) == [image.mark for image in images]
    with pytest.raises(RequestError, match=r"^images: expected at most 2 images, found 3$"):
        read_images(images, VISION, replace(DEFAULT_LIMITS, images=2))
    expected = r"^messages\[0\]: expected images that are decoded within -1 s, found more$"
    with pytest.raises(RequestError, match=expected):
        read_images(images, VISION, replace(DEFAULT_LIMITS, seconds=-1.0))
