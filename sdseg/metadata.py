"""What a picture file says besides its pixels, taken out before a decoder sees it.

Decoders read EXIF, text and tags as they open a file, and refuse the picture where these are broken, odd or large.
`strip` hands on a copy without them, so that metadata never decides whether or how pixels are read. Two things are kept
apart: the orientation tag and the colour profile.

Layouts: JPEG (ITU T.81, annex B), PNG (third edition), TIFF 6.0 and BigTIFF, EXIF 2.3, HEIF (ISO 23008-12).
"""

import re
import struct
import zlib
from dataclasses import dataclass

from sdseg.errors import UserError

INFLATED_LIMIT = 2**26  # bytes; a compressed profile or EXIF block that holds more counts as absent

ORIENTATION = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PIXEL_CHUNKS = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}  # and the critical ones, whose first letter is a capital
TIFF_PIXEL_TAGS = {
    256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 326, 327, 328,
    332, 334, 338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 50674,
}  # fmt: skip
TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
NEW_SUBFILE_TYPE, PHOTOMETRIC, SUB_IFDS, PROFILE, DNG_VERSION = 254, 262, 330, 34675, 50706
REDUCED_OR_MASK = 0b101  # bits of NewSubfileType
CAMERA_RAW = {32803, 34892}  # photometric interpretations: colour filter array, linear raw


@dataclass(frozen=True)
class Stripped:
    """A picture file without its metadata."""

    content: bytes
    orientation: int = 1
    """1 to 8, as EXIF numbers them"""
    profile: bytes | None = None
    """ICC profile, where it was taken out of `content` (PNG, TIFF)"""


def strip(content: bytes) -> Stripped:
    """Takes the metadata out of a JPEG, PNG, TIFF or AVIF file; any other comes back as it is.

    What does not follow its format is handed on for the decoder to judge.

    Raises:
        UserError: a TIFF of several pages, or a camera's raw file, which holds a preview in front. The message lacks
            the file's name.
    """
    if content.startswith(b"\xff\xd8\xff"):
        return _strip_jpeg(content)
    if content.startswith(PNG_SIGNATURE):
        return _strip_png(content)
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        try:
            return _strip_tiff(content)
        except struct.error:  # a directory that ends with the file
            return Stripped(content)
    if content[4:12] in (b"ftypavif", b"ftypavis"):  # turned by its own boxes alone
        return Stripped(re.sub(rb"(infe[\x02\x03].{3}.{4,6}?)Exif", rb"\1skip", content, count=1, flags=re.DOTALL))
    return Stripped(content)


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, of an EXIF block, with or without its `Exif` prefix; 1 where there is none."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        tiff = _Tiff(exif)
        return tiff.orientation(tiff.directory(tiff.first)[0])
    except (struct.error, KeyError):
        return 1


def _strip_jpeg(content: bytes) -> Stripped:
    """Keeps APP0 (JFIF) and APP14 (Adobe), which say how colours are coded, and APP2 with the profile."""
    kept, orientation, at = [content[:2]], None, 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == 0xDA or 0xD0 <= marker <= 0xD9 or marker == 0x01:  # pixels begin; or no segment
            break
        (length,) = struct.unpack_from(">H", content, at + 2)
        segment = content[at : at + 2 + length]
        body, whole = segment[4:], len(segment) == 2 + length
        if marker == 0xE1 and body.startswith(b"Exif\0") and orientation is None:
            orientation = exif_orientation(body)
        named = (
            (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14)
            or (marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14)
            or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)
        )
        if named or not whole or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
        at += 2 + length
    return Stripped(b"".join([*kept, content[at:]]), orientation or 1)


def _strip_png(content: bytes) -> Stripped:
    kept, exif, profile, at = [PNG_SIGNATURE], None, None, len(PNG_SIGNATURE)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if end > len(content):
            break
        if kind[:1].isupper() or kind in PNG_PIXEL_CHUNKS:
            kept.append(content[at:end])
        elif kind == b"eXIf":
            exif = exif or content[at + 8 : end - 4]
        elif kind == b"iCCP":
            _, _, packed = content[at + 8 : end - 4].partition(b"\0")
            profile = profile or _inflated(packed[1:])
        elif kind in (b"tEXt", b"zTXt"):  # as ImageMagick stored EXIF before PNG had a chunk for it
            name, _, text = content[at + 8 : end - 4].partition(b"\0")
            if name in (b"Raw profile type exif", b"Raw profile type APP1"):
                exif = exif or _raw_profile(_inflated(text[1:]) if kind == b"zTXt" else text)
        at = end
        if kind == b"IEND":
            return Stripped(b"".join(kept), exif_orientation(exif or b""), profile)
    return Stripped(b"".join([*kept, content[at:]]), exif_orientation(exif or b""), profile)


def _inflated(packed: bytes) -> bytes | None:
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(packed, INFLATED_LIMIT)
    except zlib.error:
        return None
    return inflated if inflater.eof else None


def _raw_profile(text: bytes | None) -> bytes | None:
    """ImageMagick's text form of a block of bytes: a line with its kind, one with its length, and hexadecimal lines."""
    try:
        return bytes.fromhex("".join((text or b"").decode("ascii").split("\n")[3:]))
    except ValueError:
        return None


class _Tiff:
    """The directories of a TIFF or EXIF block. Whatever lies beyond its end raises struct.error."""

    def __init__(self, content: bytes):
        self.content = content
        self.order = {b"II": "<", b"MM": ">"}[content[:2]]
        (version,) = struct.unpack_from(self.order + "H", content, 2)
        big = version == 43
        self.count, self.entry, self.offset = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
        self.header = 8 if big else 4  # position of the first directory's offset
        (self.first,) = struct.unpack_from(self.order + self.offset, content, self.header)

    def directory(self, at: int) -> tuple[dict[int, tuple[int, int, bytes]], int]:
        """({tag: (type, count, value or offset)}, offset of the next directory) of the directory at `at`.

        A directory that is cut off, as in damaged EXIF, holds the entries that are there; the next is then 0.
        """
        (count,) = struct.unpack_from(self.order + self.count, self.content, at)
        at += struct.calcsize(self.order + self.count)
        size, entries = struct.calcsize(self.order + self.entry), {}
        for _ in range(min(count, (len(self.content) - at) // size)):
            tag, *rest = struct.unpack_from(self.order + self.entry, self.content, at)
            entries.setdefault(tag, tuple(rest))
            at += size
        try:
            (following,) = struct.unpack_from(self.order + self.offset, self.content, at)
        except struct.error:
            following = 0
        return entries, following

    def value(self, entry: tuple[int, int, bytes]) -> bytes:
        kind, count, field = entry
        size = count * struct.calcsize("=" + TIFF_INTEGERS.get(kind, "B"))
        if size <= len(field):
            return field[:size]
        (start,) = struct.unpack(self.order + self.offset, field)
        return self.content[start : start + size]

    def integers(self, entry: tuple[int, int, bytes] | None) -> tuple[int, ...]:
        """The values of an entry of whole numbers; none where the entry is absent, cut off or of another type."""
        if entry is None or entry[0] not in TIFF_INTEGERS:
            return ()
        value, letter = self.value(entry), TIFF_INTEGERS[entry[0]]
        return struct.unpack(f"{self.order}{len(value) // struct.calcsize('=' + letter)}{letter}", value)

    def orientation(self, entries: dict[int, tuple[int, int, bytes]]) -> int:
        try:
            (value, *_) = self.integers(entries.get(ORIENTATION)) or (1,)
        except struct.error:
            return 1
        return value if 1 <= value <= 8 else 1

    def number(self, entries: dict[int, tuple[int, int, bytes]], tag: int) -> int:
        """The first value of a tag; 0 without one."""
        try:
            return next(iter(self.integers(entries.get(tag))), 0)
        except struct.error:
            return 0


def _strip_tiff(content: bytes) -> Stripped:
    """Leaves the one page that is the picture, with the tags that decide about its pixels."""
    tiff = _Tiff(content)
    pages, nested = {}, {}  # entries by offset: of the chain of pages, and of the directories within these
    at = tiff.first
    while at and at not in pages:
        try:
            pages[at], at = tiff.directory(at)
        except struct.error:
            break
    for entries in pages.values():
        try:
            nested |= {at: tiff.directory(at)[0] for at in tiff.integers(entries.get(SUB_IFDS)) if at not in pages}
        except struct.error:
            continue
    if not pages:
        return Stripped(content)
    everything = pages | nested
    if (
        content[8:10] == b"CR"  # Canon's CR2
        or any(DNG_VERSION in entries for entries in pages.values())
        or any(tiff.number(entries, PHOTOMETRIC) in CAMERA_RAW for entries in everything.values())
    ):
        raise UserError("is a camera's raw file, whose first picture is only a preview; develop it to JPEG or PNG")
    page = _the_picture(tiff, pages, nested)
    entries = everything[page]
    kept = [(tag, *entry) for tag, entry in entries.items() if tag in TIFF_PIXEL_TAGS]
    # In place: what is shorter fits, and offsets within the file stay true.
    new = bytearray(content)
    struct.pack_into(tiff.order + tiff.offset, new, tiff.header, page)
    struct.pack_into(tiff.order + tiff.count, new, page, len(kept))
    at = page + struct.calcsize(tiff.order + tiff.count)
    for entry in kept:
        struct.pack_into(tiff.order + tiff.entry, new, at, *entry)
        at += struct.calcsize(tiff.order + tiff.entry)
    struct.pack_into(tiff.order + tiff.offset, new, at, 0)
    profile = tiff.value(entries[PROFILE]) if PROFILE in entries else None
    return Stripped(bytes(new), tiff.orientation(entries), profile)


def _the_picture(tiff: _Tiff, pages: dict[int, dict], nested: dict[int, dict]) -> int:
    """The offset of the only page that is neither a reduced version nor a mask of another.

    Raises:
        UserError: there is more than one, or none.
    """

    def area(page: int) -> int:
        entries = (pages | nested)[page]
        return tiff.number(entries, 256) * tiff.number(entries, 257)

    def whole(among: dict[int, dict]) -> list[int]:
        return [at for at, entries in among.items() if not tiff.number(entries, NEW_SUBFILE_TYPE) & REDUCED_OR_MASK]

    candidates = whole(pages)
    if len(pages) + len(nested) == 1:
        return next(iter(pages))
    # A directory within a page is a smaller version of it, whatever it is called, unless it is larger.
    largest = max(map(area, candidates), default=0)
    candidates += [at for at in whole(nested) if area(at) > largest]
    if len(candidates) != 1:
        raise UserError(
            f"holds {max(len(candidates), len(pages))} frames or pages, and only single pictures are read; save one "
            "as PNG"
        )
    return candidates[0]
