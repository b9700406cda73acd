"""The one door through which pixels come and go: files, EXIF, colour profiles, bit depths, value ranges.

Inside sdseg a picture is uint8 [H, W, 3] sRGB, an alpha matte float32 [H, W] in [0, 1], and what networks see
float32 [B, C, H, W] in [-1, 1]. Everything that changes a pixel's range between these calls `to_signed` or `to_unit`.
"""

import os
import stat
import threading
import uuid
import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdseg.errors import MissingFile, UserError, one_line
from sdseg.metadata import Stripped, exif_orientation, strip

if TYPE_CHECKING:
    import torch
    from PIL import Image

# A picture of more pixels is refused, lest one file take all memory; decoding takes up to 8 bytes a pixel. The
# environment variable replaces the number. Text and other metadata have no limit: they are not read.
MAX_PIXELS = 250_000_000
PIXEL_LIMIT_VARIABLE = "SDSEG_MAX_PIXELS"
_PILLOW_LIMIT_LOCK = threading.Lock()

# Pillow's names of the formats that are read. A JPEG with more views behind the photo (MPO, many phones) is a JPEG.
FORMATS = {"AVIF", "BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"}
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation -> PIL.Image.Transpose that turns it upright
# HEIC cannot be read, yet it is what many phones write: a folder that holds one fails at it rather than pass it over.
EXTENSIONS = {
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
JPEG_HEAD = 2**18  # bytes that nearly always hold a JPEG's size; its other metadata may go on for longer
PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # colour space of a profile that fits a Pillow mode
# pixels of the model's picture: where a side is thinner, its edge is repeated up to here. One latent cell of SD's VAE.
THINNEST = 8
ROWS_AT_ONCE = 64  # of a large photo, in a strip: what is computed from it is small beside the photo
FLOAT_SLACK = 1e-4  # what filters may leave outside [0, 1]


class ImageError(UserError):
    """A picture that cannot be used. The message is one line that names the file and the remedy."""


@dataclass(frozen=True)
class Encoded:
    """A picture file's bytes, out of a parquet or tar file; `name` stands for its path in messages."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


# ------------------------------------------------------------------------------------------------ reading


def read_image(path: str | os.PathLike | Encoded) -> np.ndarray:
    """Reads one picture as uint8 [H, W, 3] sRGB, upright and as a viewer would show it on a white page.

    - EXIF orientation is applied.
    - An embedded colour profile (CMYK, grey, or RGB other than sRGB) is converted to sRGB, relative
      colorimetric with black-point compensation, as browsers do. CMYK without a usable profile takes Pillow's
      plain formula.
    - 16 bits become 8 by rounding v / 257. Grey and palette pictures become RGB.
    - Transparent pixels (RGBA, LA, palette) are composited over white, blended in sRGB: what lies hidden
      under full transparency is often rubbish, and a matte of something nobody can see surprises.

    All other metadata is ignored (see `sdseg.metadata`). Of a TIFF with smaller versions of itself the whole picture is
    read.

    Raises ImageError: missing, empty, truncated, more than `pixel_limit()` pixels or not a picture, HEIC, camera raw,
    several frames, 32 bits.
    """
    from PIL import Image

    image, deep, profile = _open(path if isinstance(path, Encoded) else Path(path))
    grey = image.mode in ("1", "L", "LA", "La") or (deep is not None and deep.ndim == 2)
    if deep is not None:
        eight_bit = np.empty(deep.shape, np.uint8)
        for start in range(0, len(deep), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            eight_bit[rows] = (deep[rows].astype(np.uint32) + 128) // 257  # round(v / 257), exactly
        image = Image.fromarray(eight_bit)
    if image.has_transparency_data:
        image = over_white(image)
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    if grey:
        image = image.convert("L")  # exactly, as its channels are equal; a grey profile needs it
    if profile:
        image = _to_srgb(image, profile)
    return _pixels(image if image.mode == "RGB" else image.convert("RGB"))  # which would copy


def over_white(image: "Image.Image") -> "Image.Image":
    """An image with transparency over a white page, of mode RGB; strip by strip, since a copy takes much memory."""
    from PIL import Image

    result = Image.new("RGB", image.size)
    for start in range(0, image.height, ROWS_AT_ONCE):
        strip = image.crop((0, start, image.width, min(start + ROWS_AT_ONCE, image.height))).convert("RGBA")
        page = Image.new("RGBA", strip.size, "white")
        result.paste(Image.alpha_composite(page, strip).convert("RGB"), (0, start))
    return result


def _pixels(image: "Image.Image") -> np.ndarray:
    """An image of mode RGB as uint8 [H, W, 3], strip by strip: as a whole Pillow copies it twice on the way."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for start in range(0, image.height, ROWS_AT_ONCE):
        strip = image.crop((0, start, image.width, min(start + ROWS_AT_ONCE, image.height)))
        pixels[start : start + ROWS_AT_ONCE] = np.asarray(strip)
    return pixels


def read_alpha(path: str | os.PathLike | Encoded) -> np.ndarray:
    """Reads one matte as float32 [H, W] in [0, 1]: value / 255, / 65535 (16 bit), 0 and 1 (1 bit), or as it is (TIFF in
    floats).

    Grey is taken as it is; palette and RGB pictures must be grey in fact (all channels equal). A transparency
    channel is accepted only where it is opaque throughout, because the file would otherwise hold two
    candidates for the matte. EXIF orientation is applied, a colour profile is not: a matte is no light.

    Raises ImageError as `read_image` does, and for coloured or partly transparent pictures.
    """
    path = path if isinstance(path, Encoded) else Path(path)
    image, deep, _ = _open(path, floats=True)
    if image.mode == "F":
        return _float_matte(path, np.array(image))
    if deep is not None:
        values, full = deep, 65535
    else:
        if image.mode == "CMYK":
            raise ImageError(f"{path}: a CMYK picture is no matte; save the matte as a plain grey PNG")
        if image.has_transparency_data:
            image = image.convert("RGBA")
        elif image.mode not in ("L", "RGB"):
            image = image.convert("L" if image.mode == "1" else "RGB")
        values, full = np.asarray(image), 255
    if values.ndim == 3 and values.shape[2] == 4:
        if values[..., 3].min() < full:
            raise ImageError(
                f"{path}: has both grey values and transparency, so which of them is the matte is unclear; "
                "save the matte alone as a plain grey PNG"
            )
        values = values[..., :3]
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise ImageError(f"{path}: a matte must be grey, and this has colours; save it as a grey PNG")
        values = values[..., 0]
    return values.astype(np.float32) / np.float32(full)


def read_grey16(path: str | os.PathLike) -> np.ndarray:
    """Reads what `write_grey16` wrote: float32 [H, W] in [0, 1]."""
    return read_alpha(path)


def raw_picture(path: Path | Encoded, mode: str | None = None):
    """A picture file as Pillow decodes it, converted to `mode` if one is given: no orientation, no profile.

    For files whose values are not what a viewer shows: label maps, and layers that a script composes.
    """
    if not isinstance(path, Encoded) and not path.exists():
        raise ImageError(f"{path}: no such file; copy or download it again")
    image, _, _ = _decoded(path)
    try:
        return image.convert(mode) if mode else image
    except ValueError as error:
        raise ImageError(f"{path}: cannot be converted to {mode} ({one_line(error)}); save it as PNG") from error


def read_label_file(path: Path | Encoded) -> np.ndarray:
    """Reads a label map as int32 [H, W]: values of a grey picture, indices of a palette picture.

    RGB pictures are accepted where all channels agree. Raises ImageError for coloured ones: they are renderings
    for the eye.
    """
    image = raw_picture(path)
    values = np.asarray(image)
    if values.ndim == 3 and len(image.getbands()) in (3, 4):
        if (values[..., :3] != values[..., :1]).any():
            raise ImageError(f"{path}: is coloured; labels are read from palette indices or grey values")
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise ImageError(f"{path}: is no label map ({image.mode}); labels are read from palette indices or grey values")
    return values.astype(np.int32)


def _float_matte(path: Path | Encoded, values: np.ndarray) -> np.ndarray:
    """float32 [H, W], checked to lie in [0, 1] but for rounding."""
    low, high = float(values.min()), float(values.max())
    if not (low >= -FLOAT_SLACK and high <= 1 + FLOAT_SLACK):  # NaN is neither
        raise ImageError(
            f"{path}: its values run from {low:g} to {high:g}, and alpha in floats lies in [0, 1]; scale it, or save "
            "it as a grey PNG of 16 bits"
        )
    return values.clip(0, 1)


def _open(path: Path | Encoded, floats: bool = False) -> "tuple[Image.Image, np.ndarray | None, bytes | None]":
    """Opens, checks and decodes one picture: (Pillow image, upright; uint16 values or None; colour profile or None).

    The second is given for 16-bit files only: [H, W] grey, [H, W, 3] RGB or [H, W, 4] RGBA, upright. Pillow
    keeps just the upper byte of 16-bit colour, so OpenCV reads those.
    """
    image, stripped, rawmode = _decoded(path)
    profile = stripped.profile or image.info.get("icc_profile")
    orientation = _orientation(image, stripped)
    upright = image.transpose(TURNS[orientation]) if orientation in TURNS else image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return upright, np.array(upright).astype(np.uint16), profile
    if image.mode == "F" and floats:
        return upright, None, profile
    if image.mode in ("I", "F"):
        raise ImageError(f"{path}: holds 32 bits a channel; convert it to 8 or 16 bits")
    if ";16" in rawmode:
        return upright, _decode_deep_colour(path, stripped.content, orientation), profile
    return upright, None, profile


def picture_size(path: Path | Encoded) -> tuple[int, int]:
    """(width, height) of a picture, upright, as `read_image` would find it; no pixel is decoded.

    Raises ImageError as `read_image` does for what shows before the pixels.
    """
    content = path.content if isinstance(path, Encoded) else _content(path, JPEG_HEAD)
    try:
        image, stripped = _opened_picture(path, content)
    except ImageError:
        if isinstance(path, Encoded):
            raise
        image, stripped = _opened_picture(path, _content(path))
    return image.size[::-1] if _orientation(image, stripped) >= 5 else image.size


def _decoded(path: Path | Encoded) -> "tuple[Image.Image, Stripped, str]":
    """Opens and decodes one picture: (Pillow image as stored, the file without metadata, raw mode)."""
    image, stripped = _opened_picture(path, path.content if isinstance(path, Encoded) else _content(path))
    rawmode = str(image.tile[0].args) if image.tile else ""
    try:
        image.load()
    except Exception as error:
        raise ImageError(f"{path}: is truncated or damaged ({one_line(error)}); copy or download it again") from error
    return image, stripped, rawmode


def _orientation(image: "Image.Image", stripped: Stripped) -> int:
    """1 to 8, as EXIF numbers them."""
    exif = image.info.get("exif")  # of WebP and AVIF
    return exif_orientation(exif) if isinstance(exif, bytes) else stripped.orientation


def _opened_picture(path: Path | Encoded, content: bytes) -> "tuple[Image.Image, Stripped]":
    """Opens and checks one picture, of which `content` are the bytes: (Pillow image, the file without metadata)."""
    from PIL import Image

    if not content:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy or download it again")
    if content[4:8] == b"ftyp" and content[8:12] in HEIC_BRANDS:
        raise ImageError(f"{path}: HEIC is not supported; convert it to JPEG or PNG")
    try:
        stripped = strip(content)
    except UserError as error:
        raise ImageError(f"{path}: {error}") from error
    limit = pixel_limit()
    try:
        image = _opened(stripped.content, limit)
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path}: has more than {limit / 1e6:.4g} million pixels; scale it down, or raise the limit with the "
            f"environment variable {PIXEL_LIMIT_VARIABLE}"
        ) from error
    except Exception as error:  # Pillow's decoders raise almost anything at bytes they do not understand
        raise ImageError(f"{path}: is not a picture that can be read; convert it to JPEG or PNG") from error
    frames = getattr(image, "n_frames", 1)
    if image.format not in FORMATS:
        raise ImageError(f"{path}: {image.format} files are not supported; convert it to JPEG or PNG")
    if frames > 1:
        raise ImageError(f"{path}: holds {frames} frames or pages, and only single pictures are read; save one as PNG")
    return image, stripped


def _opened(content: bytes, limit: int) -> "Image.Image":
    """A picture opened, its frames counted and nothing decoded; `limit` on its pixels stands in for Pillow's."""
    from PIL import Image

    with _PILLOW_LIMIT_LOCK, warnings.catch_warnings():  # both are global
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
        try:
            image = Image.open(_buffer(content))
            getattr(image, "n_frames", 1)  # GIF opens every frame to count them
            if image.width * image.height > limit:
                raise Image.DecompressionBombError
            if image.format == "TIFF":
                image.load_prepare()  # here, because it asks for Pillow's limit once more
            return image
        finally:
            Image.MAX_IMAGE_PIXELS = before


def pixel_limit() -> int:
    """The most pixels of a picture that is read: MAX_PIXELS, or what the environment variable says.

    Raises:
        UserError: the variable holds no whole number above 0.
    """
    text = os.environ.get(PIXEL_LIMIT_VARIABLE, str(MAX_PIXELS))
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UserError(f"{PIXEL_LIMIT_VARIABLE}={text}: give a whole number of pixels, such as {MAX_PIXELS}")
    return int(text)


def _content(path: Path, jpeg_head: int | None = None) -> bytes:
    """A file's bytes; of a JPEG only the first `jpeg_head`, if that is given."""
    if path.is_dir():
        raise ImageError(f"{path}: is a folder; name a picture")
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe could wait forever
            raise ImageError(f"{path}: is a pipe or device, not a file; name a picture")
        with open(path, "rb") as file:
            start = file.read(3)
            return start + file.read(jpeg_head if jpeg_head and start == b"\xff\xd8\xff" else -1)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check path and permissions") from error


def _buffer(content: bytes):
    from io import BytesIO

    return BytesIO(content)


def _decode_deep_colour(path: Path | Encoded, content: bytes, orientation: int) -> np.ndarray:
    """16-bit colour file, EXIF orientation 1 to 8 -> uint16 [H, W, 3] RGB or [H, W, 4] RGBA, upright.

    `content` has no orientation tag, which OpenCV would fail at or follow itself.
    """
    import cv2

    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise ImageError(f"{path}: this kind of 16-bit file cannot be read; save it as an ordinary PNG")
    values = cv2.cvtColor(values, cv2.COLOR_BGR2RGB if values.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def _to_srgb(image: "Image.Image", profile: bytes) -> "Image.Image":
    """Converts an L, RGB or CMYK image from its embedded profile to sRGB.

    A profile that is broken, or made for another kind of picture, counts as absent, as it does in browsers. One that
    moves no colour by more than a level is sRGB, whatever its name, and changes nothing: a round trip through the
    library would only move values by a level here and there.
    """
    from PIL import Image, ImageCms

    try:
        source = ImageCms.ImageCmsProfile(_buffer(profile))
        if PROFILE_SPACES[image.mode] != source.profile.xcolor_space.strip():
            return image
        to_srgb = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            image.mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if image.mode != "CMYK":
            levels = np.arange(0, 256, 15 if image.mode == "RGB" else 1, dtype=np.uint8)
            grid = np.stack(np.meshgrid(*[levels] * len(image.mode)), axis=-1).reshape(1, -1, len(image.mode))
            colours = Image.fromarray(grid.squeeze(-1) if image.mode == "L" else grid)
            moved = np.asarray(ImageCms.applyTransform(colours, to_srgb)).astype(int) - grid
            if np.abs(moved).max() <= 1:
                return image
        return ImageCms.applyTransform(image, to_srgb)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image


# ------------------------------------------------------------------------------------------------ writing


TEMPORARY_NAME = ".{}.tmp"  # with 32 hexadecimal digits


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a hidden temporary name beside `path` that becomes `path` if the block ends well, else vanishes.

    Readers thus see the old file or the whole new one. Missing parent folders are made. An OSError of the block that
    names no file, or the temporary one, names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(TEMPORARY_NAME.format(uuid.uuid4().hex))
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:  # a full disk names no file, and nobody knows the temporary one
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_alpha(path: str | os.PathLike, alpha: np.ndarray) -> None:
    """Writes a matte [H, W] in [0, 1] as a 16-bit grey PNG, 65535 = 1, never stretched to its range."""
    write_grey16(path, alpha)


def write_grey16(path: str | os.PathLike, values: np.ndarray) -> None:
    """Writes values [H, W] in [0, 1] (a matte, a standard deviation in alpha units) as a 16-bit grey PNG."""
    from PIL import Image

    assert values.ndim == 2, f"expected [H, W], got {values.shape}"
    low, high = values.min(), values.max()
    assert low >= -1e-6 and high <= 1 + 1e-6, f"values outside [0, 1] or not a number: {low} to {high}"
    levels = np.empty(values.shape, np.uint16)
    for start in range(0, len(values), ROWS_AT_ONCE):  # in double precision, which would take much memory as a whole
        rows = slice(start, start + ROWS_AT_ONCE)
        levels[rows] = np.rint(values[rows].astype(np.float64).clip(0, 1) * 65535)
    with replacing(path) as temporary:
        Image.fromarray(levels).save(temporary, format="PNG")


def write_float_tiff(path: str | os.PathLike, values: np.ndarray) -> None:
    """Writes values float32 [H, W] as they are, as a TIFF of one 32-bit channel."""
    from PIL import Image

    assert values.ndim == 2, f"expected [H, W], got {values.shape}"
    with replacing(path) as temporary:
        picture = Image.fromarray(values.astype(np.float32, copy=False))
        picture.save(temporary, format="TIFF", compression="tiff_adobe_deflate")


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes a picture uint8 [H, W, 3] sRGB, or [H, W, 4] with straight alpha, as a PNG."""
    from PIL import Image

    assert Path(path).suffix.lower() == ".png", f"pictures are written as .png, not {path}"
    assert image.dtype == np.uint8 and image.shape[2:] in ((3,), (4,)), (image.dtype, image.shape)
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def write_mask(path: str | os.PathLike, mask: np.ndarray) -> None:
    """Writes bool [H, W] as an 8-bit grey PNG of 0 and 255."""
    from PIL import Image

    assert mask.dtype == bool and mask.ndim == 2, (mask.dtype, mask.shape)
    with replacing(path) as temporary:
        Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")


def write_classes(path: str | os.PathLike, ids: np.ndarray, colours: np.ndarray) -> None:
    """Writes class ids uint8 [H, W] as an 8-bit palette PNG: its indices are the ids, `colours` uint8 [classes, 3]
    what a viewer shows.
    """
    from PIL import Image

    assert ids.dtype == np.uint8 and ids.ndim == 2 and ids.max() < len(colours), (ids.dtype, ids.shape, len(colours))
    picture = Image.frombytes("P", ids.shape[::-1], np.ascontiguousarray(ids).tobytes())
    picture.putpalette(np.ascontiguousarray(colours).tobytes())
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", bits=8)


# ------------------------------------------------------------------------------------------------ tensors


def to_signed(values):
    """[0, 1], the range of mattes and pictures, -> [-1, 1], the range of VAE and UNet; arrays and tensors alike."""
    values = values * 2
    values -= 1  # in place: of a large photo every copy counts
    return values


def to_unit(values):
    """[-1, 1] -> [0, 1], the inverse of `to_signed`."""
    return (values + 1) / 2


def image_to_tensor(image: np.ndarray) -> "torch.Tensor":
    """uint8 [H, W, 3] -> float32 [1, 3, H, W] in [-1, 1]."""
    import torch

    assert image.dtype == np.uint8 and image.shape[2:] == (3,), (image.dtype, image.shape)
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
    return to_signed(tensor[None] / 255)


def thick_enough(picture: "torch.Tensor", longer_side: int) -> "torch.Tensor":
    """[B, C, H, W] with the lines of its shorter side repeated where that would be less than a pixel when the longer
    one becomes `longer_side`; 0 stands for its own size."""
    height, width = picture.shape[-2:]
    times = -(-max(height, width) // (longer_side * max(1, min(height, width)))) if longer_side else 1
    return picture.repeat_interleave(times, dim=-1 if width < height else -2) if times > 1 else picture


def alpha_to_tensor(alpha: np.ndarray) -> "torch.Tensor":
    """float32 [H, W] in [0, 1] -> float32 [1, 1, H, W] in [0, 1]."""
    import torch

    assert alpha.dtype == np.float32 and alpha.ndim == 2, (alpha.dtype, alpha.shape)
    return torch.from_numpy(np.ascontiguousarray(alpha))[None, None]


# ------------------------------------------------------------------------------------------------ listing


LOOP = "folder met again through a link"
CLOSED = "folder that cannot be opened"


@dataclass(frozen=True)
class Listing:
    """What a folder holds."""

    pictures: list[Path]
    passed_over: dict[str, int]
    """how many files of each suffix are not read; also LOOP and CLOSED"""

    def describe_passed_over(self) -> str:
        """`3 .cr2, 1 .txt`"""
        return ", ".join(f"{count} {what}" for what, count in self.passed_over.items())


def find_images(path: str | os.PathLike, exclude: str | os.PathLike | None = None) -> Listing:
    """A picture file -> it alone; a folder -> every picture beneath it, sorted, chosen by extension in any case.

    Linked folders are followed, but not back into a folder that is being listed. Hidden files and folders are left
    out, and so is all that lies in `exclude` (an output folder within the input folder would otherwise be read as input
    the next time).

    Raises:
        MissingFile: no such path.
        ImageError: a folder without pictures.
    """
    path = Path(path)
    if path.is_file():
        return Listing([path], {})
    listing = find_files(path, EXTENSIONS, exclude)
    if not listing.pictures:
        beside = f" but {listing.describe_passed_over()}" if listing.passed_over else ""
        raise ImageError(
            f"{path}: holds no pictures ({', '.join(sorted(EXTENSIONS))}){beside}; check the path, or convert them to "
            "JPEG or PNG"
        )
    return listing


def find_files(path: str | os.PathLike, suffixes: Collection[str], exclude: str | os.PathLike | None = None) -> Listing:
    """The files beneath a folder that have one of these suffixes (in lower case), as `find_images` finds pictures.

    Raises:
        MissingFile: no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise MissingFile(f"{path}: no such file or folder; check the path")
    excluded = Path(exclude).resolve() if exclude is not None else None
    found, others = [], Counter()
    above = {path: (path.resolve(),)}  # the real paths of a folder and of those it was reached through

    def note_closed(error: OSError) -> None:
        others[CLOSED] += 1

    for folder, subfolders, files in os.walk(path, onerror=note_closed, followlinks=True):
        here = Path(folder)
        reached_through = above.pop(here)
        for name in subfolders[:]:
            real = (here / name).resolve()
            loops = real in reached_through
            others[LOOP] += loops
            if name[0] == "." or real == excluded or loops:
                subfolders.remove(name)
            else:
                above[here / name] = (*reached_through, real)
        for name in files:
            suffix = Path(name).suffix.lower()
            if name[0] != "." and suffix in suffixes:
                found.append(here / name)
            elif name[0] != ".":
                others[suffix or "without suffix"] += 1
    return Listing(sorted(found), {what: others[what] for what in sorted(others) if others[what]})


def list_images(path: str | os.PathLike, exclude: str | os.PathLike | None = None) -> list[Path]:
    """The pictures of `find_images`."""
    return find_images(path, exclude).pictures
