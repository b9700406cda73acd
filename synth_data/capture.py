"""The camera between the light and the file: lens, sensor, development, sharpening and JPEG, in a camera's order.

Nothing in here moves or changes the matte: alpha stays that of the light that reached the lens.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from synth_data.colour import linear_to_srgb
from synth_data.factors import chance, count, span

# A process makes one picture at a time and there are as many processes as cores; besides, OpenCV's thread pool
# does not survive the fork by which a training loader starts its workers.
cv2.setNumThreads(1)

BLACK = 0.05  # what the sensor reports for no light, so that noise has room on both sides; 1 is full
FINE = 2**18 + 1  # entries of a table of sRGB values; at black they are a hundredth of a level apart
SHARPENING_SIGMA = 1.0  # pixels
OF_JPEG = ("jpeg", "quality", "subsampled")  # what happens after the picture is in 8 bits
AVERAGED_OUT = 2.0  # reduced so many times, a picture shows no mosaic and no JPEG


@dataclass(frozen=True)
class CaptureFactors:
    """What a camera does to a picture; the defaults do nothing."""

    vignetting: tuple = span(0.0, 0.0, most=1)
    """share of the light that is lost in the corners"""
    fringe: tuple = span(0.0, 0.0, least=-0.02, most=0.02)
    """lateral chromatic aberration: red is this share larger than green, and blue smaller"""
    softness: tuple = span(0.0, 0.0, most=5)
    """standard deviation of the blur before the sensor, in pixels"""
    mosaic: float = chance(0.0)
    """whether a sensor pixel sees one colour and the other two are interpolated"""
    shot_noise: tuple = span(0.0, 0.0, most=0.5)
    """standard deviation of the noise at full light; it falls with the square root of the light"""
    read_noise: tuple = span(0.0, 0.0, most=0.5)
    """standard deviation of the noise without light; 1 is full light"""
    warmth: tuple = span(0.0, 0.0, least=-1, most=1)
    """white balance: logarithm of the gain of red and of the loss of blue"""
    tint: tuple = span(0.0, 0.0, least=-1, most=1)
    """white balance: logarithm of the gain of green"""
    contrast: tuple = span(0.0, 0.0, least=-1, most=1)
    """tone curve: S-shaped above 0, flat below; 1 takes all slope from black and white"""
    sharpening: tuple = span(0.0, 0.0, most=3)
    """share of the detail below two pixels that is added once more"""
    jpeg: float = chance(0.0)
    """whether the picture has been a JPEG"""
    quality: tuple = count(95, 95, least=1, most=100)
    """its quality, as libjpeg counts it"""
    subsampled: float = chance(1.0)
    """whether its chroma has half the resolution"""
    reduced: tuple = span(1.0, 1.0, least=1, most=64, log=True)
    """how many times wider the photo was before it was reduced to this size: noise and softness shrink with it, and
    from 2 on nothing is left of mosaic and JPEG"""


@lru_cache(maxsize=8)
def _distance_squared(height: int, width: int) -> np.ndarray:
    """Squared distance from the middle, 1 in the corners: float32 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    squared = (x - width / 2) ** 2 + (y - height / 2) ** 2
    squared = (squared / ((width / 2) ** 2 + (height / 2) ** 2)).astype(np.float32)
    return cv2.merge([squared] * 3)  # numpy is slow at repeating along a last axis of three


def _enlarged(channel: np.ndarray, scale: float) -> np.ndarray:
    """float32 [H, W] enlarged about its middle; what lies outside repeats the border."""
    height, width = channel.shape
    about = np.array([[scale, 0, (1 - scale) * (width - 1) / 2], [0, scale, (1 - scale) * (height - 1) / 2]])
    return cv2.warpAffine(channel, about, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def through_lens(light: np.ndarray, vignetting: float, fringe: float, softness: float) -> np.ndarray:
    """Linear light float32 [H, W, 3] as it falls on the sensor."""
    if vignetting:
        light = light * (1 - np.float32(vignetting) * _distance_squared(*light.shape[:2]))
    if fringe:
        red, green, blue = cv2.split(light)
        light = cv2.merge([_enlarged(red, 1 + fringe), green, _enlarged(blue, 1 - fringe)])
    if softness:
        light = cv2.GaussianBlur(light, (0, 0), softness, borderType=cv2.BORDER_REPLICATE)
    return light


def exposed_sensor(light: np.ndarray, mosaic: bool, shot: float, read: float, rng: np.random.Generator) -> np.ndarray:
    """What a 16-bit sensor reads from linear light float32 [H, W, 3]: uint16 [H, W, 3]; see `developed`.

    The noise is Gaussian of variance shot^2 x light + read^2 (Foi et al. 2008, "Practical Poissonian-Gaussian noise
    modeling and fitting for single-image raw-data"). With `mosaic` it is drawn and read at one colour a pixel, in
    the pattern RG/GB, and interpolated along edges.
    """
    light = np.clip(light, 0, 1)
    if mosaic:
        seen = light[..., 1].copy()
        seen[0::2, 0::2], seen[1::2, 1::2] = light[0::2, 0::2, 0], light[1::2, 1::2, 2]
        light = seen
    if shot or read:
        deviation = np.sqrt(np.float32(shot**2) * light + np.float32(read**2))
        light = light + deviation * rng.standard_normal(light.shape, dtype=np.float32)
    counts = np.clip((light + np.float32(BLACK)) * np.float32(65535 / (1 + BLACK)) + np.float32(0.5), 0, 65535)
    counts = counts.astype(np.uint16)
    return cv2.cvtColor(counts, cv2.COLOR_BayerRGGB2RGB_EA) if mosaic else counts


@lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Linear light float32 [65536] of each sensor count; sRGB float32 of finely spaced light in [0, 1]."""
    light = np.arange(65536, dtype=np.float32) * np.float32((1 + BLACK) / 65535) - np.float32(BLACK)
    return light, linear_to_srgb(np.linspace(0, 1, FINE)).astype(np.float32)


def developed(counts: np.ndarray, warmth: float, tint: float, contrast: float) -> np.ndarray:
    """A picture float32 [H, W, 3] in [0, 1] sRGB from sensor counts uint16 [H, W, 3].

    White balance keeps the luminance of grey. The tone curve is v + c v (1 - v) (2 v - 1) on sRGB values v.
    """
    light, srgb = _tables()
    curve = srgb + np.float32(contrast) * srgb * (1 - srgb) * (2 * srgb - 1)
    gains = np.exp(np.array([warmth, tint, -warmth]))
    gains /= gains @ (0.2126, 0.7152, 0.0722)
    if not warmth and not tint:
        gains = gains[:1]
    fine = len(srgb) - 1
    curves = [np.take(curve, np.rint(np.clip(gain * light, 0, fine)).astype(np.int32)) for gain in gains * fine]
    if len(curves) == 1:
        return np.take(curves[0], counts)
    return cv2.merge([np.take(each, counts[..., k]) for k, each in enumerate(curves)])


def sharpened(picture: np.ndarray, amount: float) -> np.ndarray:
    """An unsharp mask on [H, W, 3]: `amount` times the detail finer than SHARPENING_SIGMA is added."""
    smooth = cv2.GaussianBlur(picture, (0, 0), SHARPENING_SIGMA, borderType=cv2.BORDER_REPLICATE)
    return cv2.addWeighted(picture, 1 + amount, smooth, -amount, 0)


def through_jpeg(picture: np.ndarray, quality: int, subsampled: bool) -> np.ndarray:
    """uint8 [H, W, 3] after a JPEG of this quality."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if subsampled else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), flags)
    return cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def as_reduced(factors: dict[str, Any]) -> dict[str, Any]:
    """The factors as they show once the picture is `reduced` by area averaging: a pixel is the mean of reduced^2."""
    seen, times = dict(factors), factors["reduced"]
    del seen["reduced"]
    for name in ("softness", "shot_noise", "read_noise"):
        seen[name] /= times
    if times >= AVERAGED_OUT:
        seen |= {"mosaic": False, "jpeg": False}
    return seen


def capture(linear: np.ndarray, factors: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """The picture uint8 [H, W, 3] sRGB that a camera makes of linear light float32 [H, W, 3] >= 0, 1 being white.

    `factors` are drawn `CaptureFactors`; `rng` is drawn from for pixel noise only. Where all of them are off this is
    round(255 linear_to_srgb(linear)), exactly.
    """
    f = as_reduced(factors)
    if not any(value for name, value in f.items() if name not in OF_JPEG):
        picture = np.round(linear_to_srgb(linear) * 255).astype(np.uint8)
    else:
        light = through_lens(linear.astype(np.float32, copy=False), f["vignetting"], f["fringe"], f["softness"])
        counts = exposed_sensor(light, f["mosaic"], f["shot_noise"], f["read_noise"], rng)
        picture = developed(counts, f["warmth"], f["tint"], f["contrast"])
        if f["sharpening"]:
            picture = sharpened(picture, f["sharpening"])
        picture = cv2.multiply(picture, (255.0, 255.0, 255.0, 0.0), dtype=cv2.CV_8U)  # rounded, held within 0..255
    return through_jpeg(picture, f["quality"], f["subsampled"]) if f["jpeg"] else picture
