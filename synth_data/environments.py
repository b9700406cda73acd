"""Environment lighting: equirectangular maps, read from files or built from a background picture.

An environment is linear radiance float32 [h, 2h, 3] with z up: row 0 looks up; column u looks along the azimuth
pi/2 - 2 pi u, u in [0, 1) (Mitsuba's `envmap`, rotated so that z is up).
"""

import re
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from synth_data.colour import luminance
from synth_data.errors import UserError, one_line
from synth_data.files import ENVIRONMENT_SUFFIXES, files_below

WIDTH = 1024  # most columns of an environment read from a file
NEGATIVE = 0.05  # most values below 0, taken as 0: lossy OpenEXR (DWAA, DWAB) rings around the sun
BUILT_WIDTH = 64  # columns of one built from a picture


def find_environments(folders: tuple[str, ...]) -> list[str]:
    """Every .hdr and .exr file below the folders, sorted. UserError if a folder is missing or holds none."""
    found = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"environments: no folder '{folder}'; give folders of .hdr or .exr files")
        files = sorted(str(p) for p in files_below(folder) if p.suffix.lower() in ENVIRONMENT_SUFFIXES)
        if not files:
            raise UserError(f"environments: '{folder}' holds no .hdr or .exr file")
        found += files
    return found


def _colour_channels(names: list[str]) -> list[str]:
    """The channels of one part of an OpenEXR file that hold its colour: three, one (luminance), or none.

    Plain R, G, B come first, then a layer whose name says that it is the picture (Blender's
    `ViewLayer.Combined.R`), then the first layer that has all three.
    """
    layers: dict[str, dict[str, str]] = {}
    spelt = {"RED": "R", "GREEN": "G", "BLUE": "B"}
    for name in sorted(names):
        layer, _, channel = name.rpartition(".")
        layers.setdefault(layer, {})[spelt.get(channel.upper(), channel.upper())] = name

    def later(layer: str) -> tuple[bool, bool]:
        return layer != "", not re.search("combined|beauty|rgb|colou?r", layer.lower())

    for layer in sorted(layers, key=later):
        if all(channel in layers[layer] for channel in "RGB"):
            return [layers[layer][channel] for channel in "RGB"]
    for layer in sorted(layers):
        if "Y" in layers[layer] and not {"X", "Z", "RY", "BY"} & set(layers[layer]):
            return [layers[layer]["Y"]]
    return []


def _read_exr(path: str) -> np.ndarray:
    """The colour of an OpenEXR file, float32 [h, w, 3], as its display window shows it; alpha is left.

    UserError if no part holds colour; the library's errors if the file cannot be read.
    """
    import OpenEXR

    with OpenEXR.File(path, separate_channels=True) as file:
        for k in range(len(file.parts)):
            channels, header = file.channels(k), file.parts[k].header
            if chosen := _colour_channels(list(channels)):
                break
        else:
            held = ", ".join(sorted({name for k in range(len(file.parts)) for name in file.channels(k)}))
            raise UserError(f"it holds no colour, only the channels {held}")
        planes = [np.asarray(channels[name].pixels) for name in chosen]
        if any(plane.dtype.kind != "f" or plane.ndim != 2 for plane in planes):
            raise UserError(f"its channels {', '.join(chosen)} are not floating-point numbers")
        (left, top), (right, bottom) = header["displayWindow"]
        x, y = header["dataWindow"][0] - (left, top)
    picture = np.stack(planes * (3 // len(planes)), -1).astype(np.float32)
    height, width = bottom - top + 1, right - left + 1
    if (x, y) == (0, 0) and picture.shape[:2] == (height, width):
        return picture
    shown = np.zeros((height, width, 3), np.float32)  # a crop or an overscan
    inside = picture[max(-y, 0) : height - y, max(-x, 0) : width - x]
    shown[max(y, 0) :, max(x, 0) :][: len(inside), : inside.shape[1]] = inside
    return shown


@lru_cache(maxsize=32)
def read_environment(path: str) -> np.ndarray:
    """An environment from a Radiance or OpenEXR file, at most WIDTH wide; UserError if it cannot be read."""
    try:
        if path.lower().endswith(".exr"):
            picture = _read_exr(path)
        else:
            bgr = cv2.imread(path, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
            if bgr is None or bgr.ndim != 3:
                raise UserError("it is no picture of radiance")
            picture = bgr[..., ::-1].astype(np.float32)
    except Exception as error:  # the libraries raise several types
        raise UserError(f"environment '{path}' cannot be read ({one_line(error)}); replace or remove it") from error
    if not np.isfinite(picture).all() or (picture < 0).mean() > NEGATIVE:
        raise UserError(f"environment '{path}' holds many negative or any non-finite values; replace or remove it")
    picture = np.maximum(picture, 0)
    width = min(WIDTH, picture.shape[1])
    return cv2.resize(np.ascontiguousarray(picture), (width, width // 2), interpolation=cv2.INTER_AREA)


def look(path: str) -> None:
    """Reads an environment without keeping it; UserError as in `read_environment`."""
    read_environment.__wrapped__(path)


def turned(environment: np.ndarray, degrees: float) -> np.ndarray:
    """The environment rotated about z."""
    return np.roll(environment, round(-degrees / 360 * environment.shape[1]), axis=1)


def scaled(environment: np.ndarray, strength: float) -> np.ndarray:
    """The environment scaled to a mean luminance (over the sphere) of `strength`."""
    weight = np.sin((np.arange(len(environment)) + 0.5) / len(environment) * np.pi)[:, None]
    mean = float((luminance(environment) * weight).mean() / weight.mean())
    return environment * np.float32(strength / max(mean, 1e-6))


def built_around(picture: np.ndarray, azimuth: float) -> np.ndarray:
    """An environment that matches a background: the picture fills the half behind the subject, its mirror the rest.

    Args:
        picture: linear [H, W, 3] in [0, 1], what the camera sees behind the subject.
        azimuth: direction of the camera as seen from the subject, in degrees.
    """
    width, height = BUILT_WIDTH, BUILT_WIDTH // 2
    small = cv2.resize(picture.astype(np.float32), (width // 2, height), interpolation=cv2.INTER_AREA)
    around = np.concatenate([small, small[:, ::-1]], 1)
    blurred = cv2.GaussianBlur(np.concatenate([around] * 3, 1), (0, 0), width / 24)[:, width : 2 * width]
    # photos are clipped at white: their highlights were brighter in reality
    expanded = blurred * (1 + 6 * luminance(blurred) ** 2)[..., None]
    # the picture's centre, at column width / 4, has to be opposite the camera
    column = (0.25 - (azimuth + 180) / 360) * width
    return np.roll(expanded, round(column - width / 4), axis=1)


def brightest(environment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit direction [3] and colour [3] (of luminance 1) of the brightest spot above the horizon."""
    sky = cv2.GaussianBlur(environment.astype(np.float32), (0, 0), environment.shape[1] / 40)
    upper = luminance(sky[: max(1, len(sky) // 2)])
    row, column = np.unravel_index(int(upper.argmax()), upper.shape)
    t = (row + 0.5) / len(sky) * np.pi
    azimuth = np.pi / 2 - 2 * np.pi * (column + 0.5) / sky.shape[1]
    way = np.array([np.sin(t) * np.cos(azimuth), np.sin(t) * np.sin(azimuth), np.cos(t)])
    colour = sky[row, column].astype(np.float64)
    return way, colour / max(float(luminance(colour)), 1e-6)


def axes(forward: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors [3] to the right, upwards and forward of a camera that looks along `forward`."""
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return right, np.cross(right, forward), forward


def seen_by(environment: np.ndarray, forward: np.ndarray, up: np.ndarray, fov: float, size: int) -> np.ndarray:
    """What a camera sees of the environment: linear float32 [size, size, 3]. `fov` in degrees across the frame."""
    right, above, forward = axes(forward, up)
    line = ((np.arange(size) + 0.5) / size * 2 - 1) * np.tan(np.deg2rad(fov) / 2)
    way = forward + line[None, :, None] * right - line[:, None, None] * above
    way /= np.linalg.norm(way, axis=-1, keepdims=True)
    height, width = environment.shape[:2]
    u = (0.25 - np.arctan2(way[..., 1], way[..., 0]) / (2 * np.pi)) % 1
    v = np.arccos(np.clip(way[..., 2], -1, 1)) / np.pi
    padded = cv2.copyMakeBorder(environment.astype(np.float32), 0, 0, 1, 1, cv2.BORDER_WRAP)
    x, y = (u * width + 0.5).astype(np.float32), (v * height - 0.5).astype(np.float32)
    return cv2.remap(padded, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
