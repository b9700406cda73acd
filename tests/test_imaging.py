import os
import struct
import zlib
from io import BytesIO
from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from sdseg.imaging import (
    Encoded,
    ImageError,
    alpha_to_tensor,
    find_images,
    image_to_tensor,
    list_images,
    picture_size,
    raw_picture,
    read_alpha,
    read_image,
    replacing,
    write_alpha,
    write_image,
)
from sdseg.outputs import output_file, output_names, plan_outputs, write_json, write_run_record

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, size=(5, 7), dtype=np.uint8)
DEEP_GREY = RNG.integers(0, 65536, size=(5, 7), dtype=np.uint16)
DEEP_COLOUR = RNG.integers(0, 65536, size=(5, 7, 3), dtype=np.uint16)
DEEP_GREY[0, :2] = DEEP_COLOUR[0, :2, 0] = [0, 65535]


def as_colour(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def rounded(deep: np.ndarray) -> np.ndarray:
    return np.rint(deep / 257).astype(np.uint8)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """8-bit colour and alpha blended with white in floating point."""
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def write_deep_colour(path: Path, values: np.ndarray) -> None:
    """16-bit RGB or RGBA PNG made by hand, so that neither library that reads it has written it."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def write_deep_tiff(path: Path, values: np.ndarray, orientation: int) -> None:
    """16-bit RGB TIFF made by hand, with an orientation tag (274)."""
    height, width, _ = values.shape
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 2, 273: 14, 274: orientation, 277: 3, 278: height}
    tags |= {279: values.nbytes, 284: 1}
    directory = b"".join(struct.pack("<HHII", tag, 3, 3 if tag == 258 else 1, tags[tag]) for tag in tags)
    content = b"II*\0" + struct.pack("<IHHH", 14 + values.nbytes, 16, 16, 16) + values.astype("<u2").tobytes()
    path.write_bytes(content + struct.pack("<H", len(tags)) + directory + bytes(4))


# -------------------------------------------------------------------------------------- kinds of pictures


def test_eight_bit_colour_and_grey_come_back_as_written(tmp_path):
    for extension in ("png", "bmp", "tiff", "ppm", "PNG"):
        Image.fromarray(COLOUR).save(tmp_path / f"colour.{extension}")
        image = read_image(tmp_path / f"colour.{extension}")
        assert image.dtype == np.uint8 and image.flags.writeable
        np.testing.assert_array_equal(image, COLOUR)
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), as_colour(GREY))


def test_one_bit_and_palette(tmp_path):
    bits = GREY > 127
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), as_colour(bits * np.uint8(255)))

    indices = np.arange(35, dtype=np.uint8).reshape(5, 7) % 3
    palette = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 0]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "palette.png")
    image.save(tmp_path / "palette.gif")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), palette[indices])
    np.testing.assert_array_equal(read_image(tmp_path / "palette.gif"), palette[indices])
    image.save(tmp_path / "transparent.png", transparency=1)
    palette[1] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "transparent.png"), palette[indices])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_over_white(tmp_path, mode):
    alpha = RNG.integers(0, 256, size=(5, 7), dtype=np.uint8)
    alpha[0, :2] = 0, 255
    colour = COLOUR if mode == "RGBA" else GREY[..., None]
    Image.fromarray(np.dstack([colour, alpha]), mode).save(tmp_path / "a.png")
    expected = over_white(np.broadcast_to(colour, COLOUR.shape), alpha)
    image = read_image(tmp_path / "a.png")
    assert np.abs(image - expected).max() <= 1  # Pillow blends in integers
    assert (image[0, 0] == 255).all() and (image[0, 1] == colour[0, 1]).all()


def test_sixteen_bits_are_rounded_not_cut(tmp_path):
    import cv2

    Image.fromarray(DEEP_GREY).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), as_colour(rounded(DEEP_GREY)))
    cv2.imwrite(str(tmp_path / "grey.tiff"), DEEP_GREY)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.tiff"), as_colour(rounded(DEEP_GREY)))

    write_deep_colour(tmp_path / "colour.png", DEEP_COLOUR)
    np.testing.assert_array_equal(read_image(tmp_path / "colour.png"), rounded(DEEP_COLOUR))
    assert (rounded(DEEP_COLOUR) != DEEP_COLOUR >> 8).any(), "the test would pass with the upper byte"
    write_deep_tiff(tmp_path / "colour.tiff", DEEP_COLOUR, 1)
    np.testing.assert_array_equal(read_image(tmp_path / "colour.tiff"), rounded(DEEP_COLOUR))

    write_deep_colour(tmp_path / "rgba.png", np.dstack([DEEP_COLOUR, DEEP_GREY]))
    expected = over_white(rounded(DEEP_COLOUR), rounded(DEEP_GREY))
    assert np.abs(read_image(tmp_path / "rgba.png") - expected).max() <= 1


def test_cmyk(tmp_path):
    inks = {"white": (0, 0, 0, 0), "black": (0, 0, 0, 255), "cyan": (255, 0, 0, 0), "red": (0, 255, 255, 0)}
    expected = {"white": (255,) * 3, "black": (0,) * 3, "cyan": (0, 255, 255), "red": (255, 0, 0)}
    for name, ink in inks.items():
        Image.new("CMYK", (16, 16), ink).save(tmp_path / f"{name}.jpg", quality=95)
        image = read_image(tmp_path / f"{name}.jpg")
        assert image.shape == (16, 16, 3)
        assert np.abs(image.astype(int) - expected[name]).max() <= 3, (name, image[0, 0])


def linear_profile() -> bytes:
    """sRGB's profile with its tone curve replaced by the straight line, and another name: linear light."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack(">I", profile[128:132])
    for position in range(132, 132 + 12 * count, 12):
        name, start = struct.unpack(">4sI", profile[position : position + 8])
        if name in (b"rTRC", b"gTRC", b"bTRC"):  # all three may point to one curve
            profile[start : start + 12] = b"curv" + bytes(8)
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "line".encode("utf-16-be"))


def test_colour_profile_is_converted_to_srgb(tmp_path):
    ramp = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[None, :, None], 3, axis=2)
    Image.fromarray(ramp).save(tmp_path / "linear.png", icc_profile=linear_profile())
    light = ramp / 255
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert np.abs(read_image(tmp_path / "linear.png") - encoded).max() <= 1
    assert np.abs(encoded - ramp).max() > 60

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(COLOUR).save(tmp_path / "srgb.png", icc_profile=srgb)
    np.testing.assert_array_equal(read_image(tmp_path / "srgb.png"), COLOUR)
    for broken in (b"not a profile", srgb[:200]):
        Image.fromarray(COLOUR).save(tmp_path / "broken.png", icc_profile=broken)
        np.testing.assert_array_equal(read_image(tmp_path / "broken.png"), COLOUR)
    Image.fromarray(GREY).save(tmp_path / "grey.png", icc_profile=srgb)  # an RGB profile does not fit grey
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), as_colour(GREY))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff", "deep.png", "deep.tiff", "deepgrey.png", "deepgrey.tiff"])
def test_exif_orientation(tmp_path, orientation, kind):
    """Every orientation must show what Pillow's own transposition of the stored pixels shows."""
    path = tmp_path / f"a.{kind}"
    stored = {"deep": DEEP_COLOUR, "deepgrey": DEEP_GREY}.get(kind.split(".")[0], COLOUR)
    if kind == "deep.png":
        write_deep_colour(path, stored)
        content = path.read_bytes()
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = exif.tobytes()[6:]
        chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
        path.write_bytes(content[:33] + chunk + content[33:])
    elif kind == "deep.tiff":
        write_deep_tiff(path, stored, orientation)
    else:
        image = Image.fromarray(stored)
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(path, exif=exif)
    expected = Image.fromarray(rounded(stored) if stored.dtype == np.uint16 else stored)
    expected.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(expected).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), expected)


def test_the_photo_of_a_multi_picture_jpeg_is_read(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / "phone.jpg").n_frames == 2
    assert np.abs(read_image(tmp_path / "phone.jpg").astype(int) - (255, 0, 0)).max() <= 2


# ------------------------------------------------------------------------------------------------ metadata


def exif_block(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """EXIF by hand: entries (tag, type, count, four bytes of value or offset)."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = b"".join(struct.pack(order + "HHI4s", *entry) for entry in entries)
    return mark + struct.pack(order + "IH", 8, len(entries)) + directory + bytes(4)


TURNED = (0x0112, 3, 1, b"\6\0\0\0")
ODD_EXIF = {
    "a resolution unit that cannot be written back": exif_block(TURNED, (296, 4, 1, b"\xff\xff\xff\xff")),
    "a resolution in text": exif_block(TURNED, (282, 2, 3, b"72\0\0"), (283, 2, 3, b"72\0\0")),
    "values beyond its end": exif_block(TURNED, (271, 2, 9999, b"\0\xff\xff\0"), (0x8769, 4, 1, b"\xff\xff\xff\xff")),
    "a directory in itself": exif_block(TURNED, (0x8769, 4, 1, b"\x08\0\0\0")),
    "unknown types": exif_block((270, 99, 1, b"abcd"), TURNED, (33434, 5, 1, b"\xff\xff\0\0")),
    "an orientation of 32 bits": exif_block((0x0112, 4, 1, b"\6\0\0\0")),
    "the other byte order": exif_block((0x0112, 3, 1, b"\0\6\0\0"), order=">"),
    "more entries announced than there are": exif_block(TURNED).replace(b"\x01\0\x12", b"\xff\0\x12"),
}


def with_exif(path: Path, picture: Image.Image, exif: bytes) -> None:
    """Saves a picture with an EXIF block, which Pillow writes as it is given."""
    picture.save(path, exif=(b"Exif\0\0" if path.suffix in (".jpg", ".webp") else b"") + exif)


def png_with(path: Path, *chunks: tuple[bytes, bytes]) -> None:
    """COLOUR as a PNG with chunks behind its header, the last one's checksum wrong."""
    Image.fromarray(COLOUR).save(path)
    content = path.read_bytes()
    raw = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(content[:33] + b"".join(raw) + content[33:])


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("fault", ODD_EXIF)
@pytest.mark.filterwarnings("error")
def test_odd_exif_turns_a_picture_and_does_nothing_else(tmp_path, fault, kind):
    flat = Image.new("RGB", (24, 16), (200, 100, 50))
    with_exif(tmp_path / f"a.{kind}", flat, ODD_EXIF[fault])
    image = read_image(tmp_path / f"a.{kind}")
    assert image.shape == (24, 16, 3) and np.abs(image.astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize(
    "exif", [b"", b"II", b"XX*\0rubbish", exif_block((0x0112, 3, 1, b"\x09\0\0\0")), b"II*\0\xff\xff\xff\xff"]
)
def test_exif_without_a_usable_orientation_turns_nothing(tmp_path, exif):
    with_exif(tmp_path / "a.jpg", Image.new("RGB", (24, 16)), exif)
    assert read_image(tmp_path / "a.jpg").shape == (16, 24, 3)


@pytest.mark.filterwarnings("error")
def test_broken_segments_of_a_jpeg_are_ignored(tmp_path):
    Image.new("RGB", (24, 16), (200, 100, 50)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    expected = read_image(tmp_path / "a.jpg")
    for segment in (
        b"\xe0\0\x06JFIF",
        b"\xe1\0\x08Exif\0\0",
        b"\xe2\0\x0eICC_PROFILE\0",
        b"\xe2\0\x0eMPF\0rubbish.",
        b"\xed\0\x12Photoshop 3.0\x008B",
        b"\xee\0\x07Adobe",
        b"\xfe\0\2",
    ):
        (tmp_path / "b.jpg").write_bytes(content[:2] + b"\xff" + segment + content[2:])
        np.testing.assert_array_equal(read_image(tmp_path / "b.jpg"), expected, err_msg=repr(segment))


@pytest.mark.filterwarnings("error")
def test_text_in_a_png_never_stops_it(tmp_path):
    large = zlib.compress(bytes(2**21))
    for name, chunks in {
        "one large text": [(b"zTXt", b"Comment\0\0" + large)],
        "many": [(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**20 - 1)))] * 70,
        "international": [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + large)],
        "no text": [(b"tEXt", b""), (b"zTXt", b"x"), (b"iTXt", b"\0"), (b"pHYs", b""), (b"tIME", b"")],
    }.items():
        png_with(tmp_path / "a.png", *chunks)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOUR, err_msg=name)
        np.testing.assert_array_equal(np.asarray(raw_picture(tmp_path / "a.png")), COLOUR, err_msg=name)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content.replace(b"tEXt", b"tEXu"))  # a checksum that does not hold
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOUR)
    profile = f"\nexif\n{len(exif_block(TURNED)):8}\n{exif_block(TURNED).hex()}\n".encode()
    png_with(tmp_path / "old.png", (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)))
    np.testing.assert_array_equal(read_image(tmp_path / "old.png"), np.rot90(COLOUR, -1))


def test_an_avif_is_turned_by_its_own_boxes_alone(tmp_path):
    flat = Image.new("RGB", (24, 16), (200, 100, 50))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    flat.save(tmp_path / "a.avif", exif=exif)
    assert read_image(tmp_path / "a.avif").shape == (24, 16, 3)
    content = (tmp_path / "a.avif").read_bytes()
    assert b"II*\0" in content or b"MM\0*" in content
    for mark in (b"II*\0", b"MM\0*"):
        content = content.replace(mark, b"rubb")
    (tmp_path / "b.avif").write_bytes(content)
    assert read_image(tmp_path / "b.avif").shape == (24, 16, 3)


@pytest.mark.filterwarnings("error")
def test_odd_tags_of_a_tiff_are_ignored(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 6
    for tag, kind, value in (
        (282, 2, "72"),
        (296, 4, 2**32 - 1),
        (34665, 4, 2**31),
        (305, 2, "x" * 2**21),
        (700, 7, b"x"),
    ):
        tags.tagtype[tag], tags[tag] = kind, value
    Image.fromarray(COLOUR).save(tmp_path / "odd.tif", tiffinfo=tags)
    np.testing.assert_array_equal(read_image(tmp_path / "odd.tif"), np.rot90(COLOUR, -1))
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        Image.fromarray(COLOUR).save(tmp_path / "a.tif", tiffinfo={274: 6}, compression=compression)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.rot90(COLOUR, -1))


# ------------------------------------------------------------------------------------------- colour profiles


def renamed(profile: bytes, old: str, new: str) -> bytes:
    assert len(old) == len(new)
    return profile.replace(old.encode("utf-16-be"), new.encode("utf-16-be"))


def test_a_profile_is_judged_by_what_it_does(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tmp.").replace(b"bXYZ", b"rXYZ").replace(b"tmp.", b"bXYZ")
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(swapped)))
    Image.fromarray(COLOUR).save(tmp_path / "swapped.png", icc_profile=swapped)
    assert np.abs(read_image(tmp_path / "swapped.png").astype(int) - COLOUR[..., ::-1]).max() <= 1
    Image.fromarray(COLOUR).save(tmp_path / "other.png", icc_profile=renamed(srgb, "sRGB", "mine"))
    np.testing.assert_array_equal(read_image(tmp_path / "other.png"), COLOUR)
    ramp = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[None, :, None], 3, axis=2)
    for kind in ("png", "tif", "webp"):
        Image.fromarray(ramp).save(
            tmp_path / f"a.{kind}", icc_profile=renamed(linear_profile(), "line", "sRGB"), lossless=True
        )
        assert np.abs(read_image(tmp_path / f"a.{kind}").astype(int) - ramp).max() > 60, kind


def test_a_profile_of_another_colour_space_counts_as_absent(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(COLOUR).save(tmp_path / "lab.png", icc_profile=lab)
    np.testing.assert_array_equal(read_image(tmp_path / "lab.png"), COLOUR)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", icc_profile=linear_profile())
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "b.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), read_image(tmp_path / "b.jpg"))


def test_a_profile_larger_than_pillow_allows_is_applied(tmp_path):
    large = bytearray(linear_profile() + bytes(2**21))
    large[:4] = struct.pack(">I", len(large))
    png_with(tmp_path / "a.png", (b"iCCP", b"x\0\0" + zlib.compress(bytes(large))))
    Image.fromarray(COLOUR).save(tmp_path / "b.png", icc_profile=linear_profile())
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), read_image(tmp_path / "b.png"))
    assert (read_image(tmp_path / "a.png") != COLOUR).any()


# ---------------------------------------------------------------------------- previews and several pictures


def tiff_pages(*pages: tuple[np.ndarray, dict[int, int]], inner: tuple[int, ...] = (), big: bool = False) -> bytes:
    """A TIFF by hand: grey pages uint8 [H, W] with extra tags; `inner` are the pages that hang below the first."""
    offset, entry = ("Q", "HHQQ") if big else ("I", "HHII")
    content = bytearray(b"II+\0\x08\0\0\0" + bytes(8) if big else b"II*\0" + bytes(4))
    link, pending = (8 if big else 4), None
    for number, (pixels, extra) in enumerate(pages):
        height, width = pixels.shape
        start = len(content)
        content += pixels.tobytes() + bytes(pixels.size % 2)
        tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: start, 277: 1, 278: height, 279: pixels.size}
        tags |= extra | ({330: 0} if number == 0 and inner else {})
        if number in inner:
            struct.pack_into("<" + offset, content, pending, len(content))
        else:
            struct.pack_into("<" + offset, content, link, len(content))
        content += struct.pack("<Q" if big else "<H", len(tags))
        for tag in sorted(tags):
            content += struct.pack("<" + entry, tag, 16 if big else 4, 1, tags[tag])
            if tag == 330:
                pending = len(content) - struct.calcsize(offset)
        if number not in inner:
            link = len(content)
        content += bytes(struct.calcsize(offset))
    return bytes(content)


REDUCED, MASK = {254: 1}, {254: 4}
SMALL = GREY[::2, ::2]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("pages", "inner"),
    [
        ([(SMALL, REDUCED), (GREY, {})], ()),
        ([(GREY, {}), (SMALL, REDUCED), (SMALL[:2], REDUCED)], ()),
        ([(GREY, {}), (255 - GREY, MASK)], ()),
        ([(SMALL, REDUCED), (GREY, {})], (1,)),
        ([(GREY, {}), (SMALL, {})], (1,)),
        ([(GREY, REDUCED)], ()),
    ],
)
def test_the_picture_of_a_tiff_is_read_not_its_thumbnail(tmp_path, pages, inner, big):
    (tmp_path / "a.tif").write_bytes(tiff_pages(*pages, inner=inner, big=big))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), as_colour(GREY))


@pytest.mark.parametrize(
    ("pages", "inner", "reason"),
    [
        ([(GREY, {}), (GREY, {})], (), "holds 2 frames or pages"),
        ([(SMALL, {}), (GREY, {})], (), "holds 2 frames or pages"),
        ([(SMALL, {}), (GREY, {})], (1,), "holds 2 frames or pages"),
        ([(SMALL, REDUCED), (GREY, REDUCED)], (), "holds 2 frames or pages"),
        ([(SMALL, REDUCED | {50706: 1}), (GREY, {})], (1,), "camera's raw file"),
        ([(SMALL, REDUCED), (GREY, {262: 32803})], (1,), "camera's raw file"),
    ],
)
def test_a_tiff_whose_picture_is_unclear_is_refused(tmp_path, pages, inner, reason):
    (tmp_path / "a.tif").write_bytes(tiff_pages(*pages, inner=inner))
    with pytest.raises(ImageError, match=f"a.tif: .*{reason}"):
        read_image(tmp_path / "a.tif")


def test_icons_and_animations_are_refused(tmp_path):
    Image.fromarray(COLOUR).resize((64, 64)).save(tmp_path / "icon.png", format="ICO", sizes=[(16, 16), (64, 64)])
    with pytest.raises(ImageError, match="ICO files are not supported"):
        read_image(tmp_path / "icon.png")
    preview, frame = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
    preview.save(tmp_path / "a.png", save_all=True, append_images=[frame], default_image=True)
    with pytest.raises(ImageError, match="a.png: holds 2 frames"):
        read_image(tmp_path / "a.png")


# ---------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_several_frames_are_refused(tmp_path, kind):
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=f"a.{kind}: holds 2 frames"):
        read_image(tmp_path / f"a.{kind}")


@pytest.mark.parametrize("kind", ["jpg", "png", "tiff", "webp", "bmp", "deep.png"])
def test_truncated_files_are_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    noise = np.random.default_rng(1).integers(0, 65536, size=(64, 64, 3))
    if kind == "deep.png":
        write_deep_colour(path, noise)
    else:
        Image.fromarray((noise >> 8).astype(np.uint8)).save(path)
    content = path.read_bytes()
    assert read_image(path).shape == (64, 64, 3)
    for share in (0.01, 0.5, 0.97):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ImageError) as error:
            read_image(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_picture_is_refused(tmp_path, monkeypatch):
    def refusal(path: Path) -> str:
        with pytest.raises(ImageError) as error:
            read_image(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    (tmp_path / "empty.png").touch()
    assert "0 bytes" in refusal(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("no picture")
    assert "not a picture" in refusal(tmp_path / "text.jpg")
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    assert "HEIC is not supported; convert it to JPEG or PNG" in refusal(tmp_path / "photo.jpg")
    assert "No such file" in refusal(tmp_path / "missing.png")
    assert "folder" in refusal(tmp_path)
    Image.fromarray(COLOUR).save(tmp_path / "a.eps")
    assert "EPS files are not supported" in refusal(tmp_path / "a.eps")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "float.tiff")
    assert "32 bits" in refusal(tmp_path / "float.tiff")
    for kind in ("png", "tiff", "webp"):
        Image.fromarray(COLOUR).save(tmp_path / f"bomb.{kind}")
        monkeypatch.setenv("SDSEG_MAX_PIXELS", "34")
        assert "pixels; scale it down, or raise the limit with the environment" in refusal(tmp_path / f"bomb.{kind}")
        monkeypatch.setenv("SDSEG_MAX_PIXELS", "35")
        assert read_image(tmp_path / f"bomb.{kind}").shape == COLOUR.shape
    monkeypatch.setenv("SDSEG_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="SDSEG_MAX_PIXELS=many: give a whole number"):
        read_image(tmp_path / "bomb.png")


# ------------------------------------------------------------------------------------------------- mattes


def test_every_alpha_level_survives_a_round_trip(tmp_path):
    alpha = (np.arange(65536, dtype=np.float64) / 65535).astype(np.float32).reshape(256, 256)
    write_alpha(tmp_path / "new" / "a.png", alpha)
    np.testing.assert_array_equal(read_alpha(tmp_path / "new" / "a.png"), alpha)
    stored = np.asarray(Image.open(tmp_path / "new" / "a.png"))
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored.ravel(), np.arange(65536))
    assert os.listdir(tmp_path / "new") == ["a.png"], "a temporary file was left behind"


def test_alpha_is_never_stretched(tmp_path):
    write_alpha(tmp_path / "a.png", np.full((3, 4), 0.2))
    np.testing.assert_allclose(read_alpha(tmp_path / "a.png"), 0.2, atol=0.5 / 65535)
    write_alpha(tmp_path / "b.png", np.array([[-1e-7, 1 + 1e-7]]))
    assert read_alpha(tmp_path / "b.png").tolist() == [[0, 1]]


@pytest.mark.parametrize("wrong", [np.nan, -0.01, 1.01, np.inf])
def test_alpha_outside_its_range_is_an_error_and_writes_nothing(tmp_path, wrong):
    with pytest.raises(AssertionError):
        write_alpha(tmp_path / "a.png", np.array([[0.5, wrong]]))
    assert list(tmp_path.iterdir()) == []


def test_kinds_of_mattes(tmp_path):
    eight = (GREY / 255).astype(np.float32)
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(as_colour(GREY)).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([as_colour(GREY), np.full_like(GREY, 255)])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]), "LA").save(tmp_path / "la.png")
    Image.fromarray(as_colour(GREY)).quantize(256).save(tmp_path / "palette.png")
    for name in ("grey", "rgb", "rgba", "la", "palette"):
        alpha = read_alpha(tmp_path / f"{name}.png")
        assert alpha.dtype == np.float32
        np.testing.assert_array_equal(alpha, eight, err_msg=name)
    Image.fromarray(GREY > 100).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_alpha(tmp_path / "bits.png"), (GREY > 100).astype(np.float32))
    Image.fromarray(DEEP_GREY).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_alpha(tmp_path / "deep.png"), DEEP_GREY / 65535, rtol=1e-7)
    write_deep_colour(tmp_path / "deeprgb.png", as_colour(DEEP_GREY))
    np.testing.assert_allclose(read_alpha(tmp_path / "deeprgb.png"), DEEP_GREY / 65535, rtol=1e-7)


def test_mattes_in_floats_are_taken_as_they_are_or_refused(tmp_path):
    exact = np.random.default_rng(0).random((12, 17)).astype(np.float32)
    Image.fromarray(exact).save(tmp_path / "float.tiff")
    np.testing.assert_array_equal(read_alpha(tmp_path / "float.tiff"), exact)
    Image.fromarray(exact * 1.0002 - 1e-4).save(tmp_path / "rounded.tiff")
    assert 0 <= read_alpha(tmp_path / "rounded.tiff").min() and read_alpha(tmp_path / "rounded.tiff").max() <= 1
    for name, wrong in (("levels", exact * 255), ("below", exact - 0.1), ("nan", np.where(exact > 0.5, np.nan, exact))):
        Image.fromarray(wrong).save(tmp_path / f"{name}.tiff")
        with pytest.raises(ImageError, match=f"{name}.tiff: its values run .* scale it"):
            read_alpha(tmp_path / f"{name}.tiff")


def test_what_is_no_matte_is_refused(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "colour.png")
    write_deep_colour(tmp_path / "deep.png", DEEP_COLOUR)
    for name in ("colour", "deep"):
        with pytest.raises(ImageError, match="must be grey"):
            read_alpha(tmp_path / f"{name}.png")
    Image.fromarray(np.dstack([as_colour(GREY), GREY])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([GREY, GREY]), "LA").save(tmp_path / "la.png")
    for name in ("rgba", "la"):
        with pytest.raises(ImageError, match="which of them is the matte is unclear"):
            read_alpha(tmp_path / f"{name}.png")
    Image.new("CMYK", (4, 4)).save(tmp_path / "cmyk.jpg")
    with pytest.raises(ImageError, match="CMYK"):
        read_alpha(tmp_path / "cmyk.jpg")


# --------------------------------------------------------------------------------------- writing, tensors


def test_write_image_round_trip(tmp_path):
    write_image(tmp_path / "a.png", COLOUR)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOUR)
    write_image(tmp_path / "b.png", np.dstack([COLOUR, GREY]))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), np.dstack([COLOUR, GREY]))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(KeyError), replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise KeyError
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"mad": float("nan")})
    assert (tmp_path / "a.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failed_write_names_the_file(tmp_path):
    for raised in (OSError(28, "No space left on device"), OSError(28, "No space left on device", "temporary")):
        with pytest.raises(OSError) as error, replacing(tmp_path / "a.png") as temporary:
            raised.filename = str(temporary) if raised.filename else None
            raise raised
        assert error.value.filename == str(tmp_path / "a.png") and error.value.errno == 28
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "a.png"):
        open(tmp_path / "other")
    assert error.value.filename == str(tmp_path / "other")


def test_images_become_tensors_in_minus_one_to_one():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = image_to_tensor(levels)
    assert tensor.shape == (1, 3, 16, 16) and tensor.min() == -1 and tensor.max() == 1
    np.testing.assert_allclose(tensor[0, 1].numpy(), levels[..., 1] / 127.5 - 1, atol=1e-6)


def test_channels_stay_in_order():
    tensor = image_to_tensor(COLOUR)
    for channel in range(3):
        np.testing.assert_allclose(tensor[0, channel].numpy(), COLOUR[..., channel] / 127.5 - 1, atol=1e-6)


def test_alpha_to_tensor():
    alpha = RNG.random((5, 7), dtype=np.float32)
    tensor = alpha_to_tensor(alpha)
    assert tensor.shape == (1, 1, 5, 7)
    np.testing.assert_array_equal(tensor[0, 0].numpy(), alpha)


# ------------------------------------------------------------------------------------- listing and naming


def test_list_images(tmp_path):
    for name in ("b.JPG", "a.png", "sub/c.webp", "sub/.hidden.png", ".cache/d.png", "notes.txt", "e.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    relative = [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)]
    assert relative == ["a.png", "b.JPG", "e.heic", "sub/c.webp"]
    assert find_images(tmp_path).passed_over == {".txt": 1}
    assert list_images(tmp_path / "b.JPG") == [tmp_path / "b.JPG"]
    assert tmp_path / "sub/c.webp" not in list_images(tmp_path, exclude=tmp_path / "sub")
    with pytest.raises(FileNotFoundError, match="missing"):
        list_images(tmp_path / "missing")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ImageError, match="bare: holds no pictures"):
        list_images(tmp_path / "bare")
    (tmp_path / "bare" / "a.cr2").touch()
    with pytest.raises(ImageError, match="bare: holds no pictures .* but 1 .cr2; check the path, or convert them"):
        list_images(tmp_path / "bare")


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    for name in ("in/one/a.png", "in/two/b.png", "far/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "one" / "two").symlink_to(tmp_path / "in" / "two")
    (tmp_path / "in" / "two" / "one").symlink_to(tmp_path / "in" / "one")
    (tmp_path / "in" / "far").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "up").symlink_to(tmp_path)
    listing = find_images(tmp_path / "in")
    relative = [path.relative_to(tmp_path / "in").as_posix() for path in listing.pictures]
    assert relative == ["far/c.png", "one/a.png", "one/two/b.png", "two/b.png", "two/one/a.png"]
    assert listing.passed_over == {"folder met again through a link": 4}


def names_of(*inputs: str) -> list[str]:
    paths = [Path("in") / name for name in inputs]
    names = output_names(paths, "in")
    assert list(names) == paths
    return [str(names[path]) for path in paths]


def test_output_names():
    assert names_of("a.jpg", "sub/a.jpg", "b.v2.png") == ["a", "sub/a", "b.v2"]
    assert names_of("a.jpg", "a.png", "b.png") == ["a.jpg", "a.png", "b"]
    assert names_of("a.jpg", "A.png") == ["a.jpg", "A.png"]
    assert names_of("a.jpg", "a.png", "a.jpg.png") == ["a.jpg", "a.png", "a.jpg.png"]
    assert names_of("a.png", "a.uncertainty.png", "a.rgba.jpg") == ["a", "a.uncertainty.png", "a.rgba.jpg"]
    assert output_file("out", PurePath("sub/b.v2")) == Path("out/sub/b.v2.png")
    assert output_file("out", PurePath("b.v2"), ".uncertainty.png") == Path("out/b.v2.uncertainty.png")


def test_plan_outputs(tmp_path):
    write_image(tmp_path / "in" / "a.png", COLOUR)
    write_image(tmp_path / "in" / "mattes" / "a.png", COLOUR)
    plan = plan_outputs(tmp_path / "in", tmp_path / "in" / "mattes")
    assert plan.names == {tmp_path / "in" / "a.png": PurePath("a")}
    for source in (tmp_path / "in", tmp_path / "in" / "a.png"):
        with pytest.raises(ValueError, match="holds the input pictures"):
            plan_outputs(source, tmp_path / "in")
    with pytest.raises(NotADirectoryError, match="is a file"):
        plan_outputs(tmp_path / "in", tmp_path / "in" / "a.png")


def test_run_record_counts_failures(tmp_path):
    import json

    import sdseg

    entries = [{"input": "a.png", "output": "a.png", "size": [7, 5], "seconds": 0.1}]
    entries.append({"input": "b.png", "error": "b.png: is truncated"})
    write_run_record(tmp_path, {"method": "otsu", "settings": {}, "inputs": entries})
    record = json.loads((tmp_path / "run.json").read_text())
    assert record == {
        "tool": "sdseg",
        "version": sdseg.__version__,
        "method": "otsu",
        "settings": {},
        "inputs": entries,
        "failed": 1,
    }


def test_real_photos_of_all_kinds_if_present():
    folder = Path(__file__).parents[2] / "shared" / "data" / "matting"
    if not folder.is_dir():
        pytest.skip("the folder of real photos is absent")
    for path in list_images(folder / "image"):
        image, alpha = read_image(path), read_alpha(folder / "alpha" / path.name)
        assert image.shape[:2] == alpha.shape and alpha.min() == 0 and alpha.max() == 1


# ------------------------------------------------------------------------------------------------ sizes


def test_a_size_is_that_of_the_picture_as_it_is_read(tmp_path):
    """Turned by any means, behind much metadata, in all formats; and whatever is no picture is refused alike."""
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 31, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    for name in ("a.jpg", "a.png", "a.tif", "a.webp", "a.bmp"):
        for exif in (None, turned):
            if exif is None or name != "a.bmp":
                pixels.save(tmp_path / name, **({"exif": exif} if exif else {}))
            assert picture_size(tmp_path / name) == read_image(tmp_path / name).shape[1::-1]
            content = (tmp_path / name).read_bytes()
            assert picture_size(Encoded("cell", content)) == picture_size(tmp_path / name)
    comments = b"".join(b"\xff\xfe" + (60002).to_bytes(2, "big") + bytes(60000) for _ in range(10))
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "late.jpg").write_bytes(whole[:2] + comments + whole[2:])
    assert picture_size(tmp_path / "late.jpg") == (20, 31)
    large = zlib.compress(bytes(2**26 + 1))
    png_with(tmp_path / "text.png", (b"zTXt", b"Comment\0\0" + large))
    assert picture_size(tmp_path / "text.png") == read_image(tmp_path / "text.png").shape[1::-1]
    for name, content in {"none.jpg": None, "empty.png": b"", "words.png": b"words", "cut.jpg": whole[:3]}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=name):
            picture_size(tmp_path / name)
