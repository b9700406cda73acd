"""A camera: lens, sensor, development, sharpening and JPEG, in this order.

The lens's softness blurs the matte as it blurs the picture (`recorded_alpha`): a white subject on black is recorded as
its alpha. Nothing else here changes the matte: fringes shift red and blue against it, and sharpening, noise and JPEG
change the picture only.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from synth_data.colour import linear_to_srgb
from synth_data.factors import chance, count, span

# There are as many processes as cores; besides, OpenCV's thread pool does not survive the fork by which a training
# loader starts its workers.
cv2.setNumThreads(1)

BLACK = 0.05  # the sensor's black level, which leaves room for noise on both sides; 1 is full scale
FINE = 2**18 + 1  # entries of the table of sRGB values: a hundredth of a level apart at black
SHARPENING_SIGMA = 1.0  # pixels
OF_JPEG = ("jpeg", "quality", "subsampled")  # applied to the 8-bit picture
AVERAGED_OUT = 2.0  # from this reduction on, a picture shows no mosaic and no JPEG artefacts


@dataclass(frozen=True)
class CaptureFactors:
    """Effects of a camera on a picture; the defaults have none."""

    vignetting: tuple = span(0.0, 0.0, most=1)
    """share of the light lost in the corners"""
    fringe: tuple = span(0.0, 0.0, least=-0.02, most=0.02)
    """lateral chromatic aberration: red is this share larger than green, and blue smaller"""
    softness: tuple = span(0.0, 0.0, most=5)
    """standard deviation of the lens's blur, in pixels; it blurs the matte too"""
    mosaic: float = chance(0.0)
    """whether the sensor has a Bayer mosaic: one colour per pixel, the other two interpolated"""
    shot_noise: tuple = span(0.0, 0.0, most=0.5)
    """standard deviation of the noise at full light; it falls with the square root of the light"""
    read_noise: tuple = span(0.0, 0.0, most=0.5)
    """standard deviation of the noise without light; 1 is full light"""
    warmth: tuple = span(0.0, 0.0, least=-1, most=1)
    """white balance: logarithm of red's gain, and minus that of blue's"""
    tint: tuple = span(0.0, 0.0, least=-1, most=1)
    """white balance: logarithm of green's gain"""
    contrast: tuple = span(0.0, 0.0, least=-1, most=1)
    """tone curve: S-shaped above 0, flat below; at 1 its slope is 0 at black and at white"""
    sharpening: tuple = span(0.0, 0.0, most=3)
    """unsharp mask: multiple of the fine detail that is added"""
    jpeg: float = chance(0.0)
    """whether the picture was stored as JPEG"""
    quality: tuple = count(95, 95, least=1, most=100)
    """JPEG quality on libjpeg's scale"""
    subsampled: float = chance(1.0)
    """whether JPEG chroma has half the resolution (4:2:0)"""
    reduced: tuple = span(1.0, 1.0, least=1, most=64, log=True)
    """factor by which the photo was reduced to this size: noise and softness shrink by it, and from 2 on nothing is
    left of mosaic and JPEG"""


@lru_cache(maxsize=8)
def _distance_squared(height: int, width: int) -> np.ndarray:
    """Squared distance from the middle, 1 in the corners: float32 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    squared = (x - width / 2) ** 2 + (y - height / 2) ** 2
    squared = (squared / ((width / 2) ** 2 + (height / 2) ** 2)).astype(np.float32)
    return cv2.merge([squared] * 3)  # numpy broadcasts slowly over a last axis of three


def _enlarged(channel: np.ndarray, scale: float) -> np.ndarray:
    """float32 [H, W] scaled about its centre; the border is repeated outside."""
    height, width = channel.shape
    about = np.array([[scale, 0, (1 - scale) * (width - 1) / 2], [0, scale, (1 - scale) * (height - 1) / 2]])
    return cv2.warpAffine(channel, about, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def through_lens(light: np.ndarray, vignetting: float, fringe: float, softness: float) -> np.ndarray:
    """Linear light float32 [H, W, 3] on the sensor, after the lens; see `CaptureFactors`."""
    if vignetting:
        light = light * (1 - np.float32(vignetting) * _distance_squared(*light.shape[:2]))
    if fringe:
        red, green, blue = cv2.split(light)
        light = cv2.merge([_enlarged(red, 1 + fringe), green, _enlarged(blue, 1 - fringe)])
    return _softened(light, softness)


def _softened(light: np.ndarray, softness: float) -> np.ndarray:
    """Light or alpha, float32 [H, W] or [H, W, C], blurred by a lens; `softness` in pixels."""
    return cv2.GaussianBlur(light, (0, 0), softness, borderType=cv2.BORDER_REPLICATE) if softness else light


def recorded_alpha(alpha: np.ndarray, factors: dict[str, Any]) -> np.ndarray:
    """Alpha float32 [H, W] in [0, 1] as the sensor records it, from the alpha that reached the lens."""
    return np.clip(_softened(alpha, as_reduced(factors)["softness"]), 0.0, 1.0)


def exposed_sensor(light: np.ndarray, mosaic: bool, shot: float, read: float, rng: np.random.Generator) -> np.ndarray:
    """Counts of a 16-bit sensor, uint16 [H, W, 3], from linear light float32 [H, W, 3].

    The noise is Gaussian of variance shot^2 x light + read^2 (Foi et al. 2008, "Practical Poissonian-Gaussian noise
    modeling and fitting for single-image raw-data"). With `mosaic` each pixel reads one colour, in the
    pattern RG/GB, and the others are interpolated along edges.
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
    """Linear light float32 [65536] of each sensor count; sRGB float32 [FINE] of light in [0, 1]."""
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
    """A picture uint8 [H, W, 3] encoded as JPEG and decoded."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if subsampled else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), flags)
    return cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def as_reduced(factors: dict[str, Any]) -> dict[str, Any]:
    """The factors as they appear after reduction by area averaging: each pixel is the mean of `reduced`^2 pixels."""
    seen, times = dict(factors), factors["reduced"]
    del seen["reduced"]
    for name in ("softness", "shot_noise", "read_noise"):
        seen[name] /= times
    if times >= AVERAGED_OUT:
        seen |= {"mosaic": False, "jpeg": False}
    return seen


def capture(linear: np.ndarray, factors: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """The picture uint8 [H, W, 3] sRGB that a camera takes of linear light float32 [H, W, 3] >= 0 (1 is white).

    `factors` are drawn `CaptureFactors`; `rng` is used for pixel noise only. With all effects off this is exactly
    round(255 linear_to_srgb(linear)).
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
        picture = cv2.multiply(picture, (255.0, 255.0, 255.0, 0.0), dtype=cv2.CV_8U)  # rounds and clips to 0..255
    return through_jpeg(picture, f["quality"], f["subsampled"]) if f["jpeg"] else picture
