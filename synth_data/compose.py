"""Pictures: a rendered foreground composited over backgrounds in linear light and captured as sRGB."""

import json
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from synth_data.backgrounds import Sources
from synth_data.capture import as_reduced, capture, recorded_alpha
from synth_data.colour import linear_to_srgb, luminance
from synth_data.environments import seen_by
from synth_data.factors import draw, span
from synth_data.render import Foreground, NotFinite, refraction, render_foreground
from synth_data.scene import DISTRACTORS, PICTURE_STREAM, Scene, background_of, describe, stream
from synth_data.store import Layers, Pair, alpha_levels, alpha_of
from synth_data.subjects.meshes import thinned

HIGHLIGHT = 1.5  # limit of an opaque subject's colour as a multiple of coverage: thin highlights must not bleed
BRIGHTEST = 4.0  # limit of the colour of glass and fire
ADAPTATION = 0.6  # how far exposure follows the subject's brightness: 0 not at all, 1 fully
ATTEMPTS = 4  # most scenes drawn until one refracts as little as the recipe requires
DISTRACTOR_POOL = 24  # out-of-focus objects that a run's backgrounds share
DISTRACTOR_SAMPLES = 24  # light paths per pixel: few, since they are blurred


@dataclass(frozen=True)
class ExposureFactors:
    """How bright the subject appears."""

    key: tuple = span(0.12, 0.45, least=0.001, most=1)
    """mean luminance that exposure aims for; dark subjects stay darker and light ones lighter"""
    stops: tuple = span(-0.5, 0.5, least=-8, most=8)
    """deviation from it, in stops"""


def expose(colour: np.ndarray, alpha: np.ndarray, key: float, stops: float, clear: bool = False) -> np.ndarray:
    """Premultiplied linear colour [H, W, 3] at the exposure of `key`, plus `stops`.

    `alpha` [H, W] in [0, 1]. Highlights are clipped at HIGHLIGHT x alpha, or at BRIGHTEST if the subject is `clear`:
    glass may shine where it hides nothing.
    """
    level = float(luminance(colour).sum() / max(float(alpha.sum()), 1e-6))
    gain = (key / max(level, 1e-4)) ** ADAPTATION * 2.0**stops
    limit = np.float32(BRIGHTEST) if clear else HIGHLIGHT * alpha[..., None]
    return np.minimum(colour * np.float32(gain), limit)


def composite(colour: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    """I = C + (1 - alpha) B, linear float32 [H, W, 3].

    `colour` C premultiplied linear [H, W, 3], `alpha` [H, W] in [0, 1], `background` B linear [H, W, 3].
    """
    return colour + (1 - alpha[..., None]) * background


def mean_colour(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The subject's mean linear colour [3], from premultiplied colour [H, W, 3] and alpha [H, W]."""
    return colour.sum((0, 1), dtype=np.float64) / max(float(alpha.sum()), 1e-6)


@lru_cache(maxsize=4)
def sources_of(recipe: Any, seed: int) -> Sources:
    """What the recipe's backgrounds take from elsewhere: photos, and rendered objects out of focus."""
    return Sources(recipe.photos, partial(_distractor, recipe, seed), recipe.left_out)


def _distractor(recipe: Any, seed: int, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One of the run's out-of-focus objects, exposed: premultiplied colour [size, size, 3] and alpha [size, size]."""
    import cv2

    colour, alpha = _rendered_distractor(recipe, seed, int(rng.integers(DISTRACTOR_POOL)), min(size // 2, 128))
    colour = expose(colour, alpha, rng.uniform(0.1, 0.5), 0.0)
    large = [cv2.resize(a, (size, size), interpolation=cv2.INTER_LINEAR) for a in (colour, alpha)]
    return large[0], large[1]


@lru_cache(maxsize=4 * DISTRACTOR_POOL)
def _rendered_distractor(recipe: Any, seed: int, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    for attempt in range(ATTEMPTS):
        scene = describe(recipe, seed, DISTRACTORS + number, attempt)
        try:
            made = render_foreground(scene, size, DISTRACTOR_SAMPLES, recipe.max_depth, seed, ids=False)
        except NotFinite:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        return made.colour, made.alpha


def make_foreground(recipe: Any, seed: int, foreground: int, size: int, ids: bool = True) -> tuple[Scene, Foreground]:
    """Describes and renders one foreground, with up to ATTEMPTS draws of the scene; `ids` as in `render_foreground`.

    A scene is drawn again if it refracts more than the recipe allows (the last one gets thin glass) or if the render is
    not finite; NotFinite if all of them are not.
    """
    sources = sources_of(recipe, seed)
    for attempt in range(ATTEMPTS):
        last = attempt == ATTEMPTS - 1
        try:
            scene = describe(recipe, seed, foreground, attempt, sources)
            bent = refraction(scene, recipe.max_depth, seed)
            if bent > recipe.refraction:
                if not last:
                    continue
                scene = replace(scene, subjects=[thinned(subject) for subject in scene.subjects])
                scene.factors["thinned"] = True
                bent = refraction(scene, recipe.max_depth, seed)
            made = render_foreground(scene, size, recipe.samples_per_pixel, recipe.max_depth, seed, ids)
        except NotFinite:
            if last:
                raise
            continue
        break
    scene.factors["attempt"] = attempt
    if made.measured:
        made.measured["refraction"] = round(bent, 6)
    return scene, made


def _factors(scene: Scene, made: Foreground, alpha: np.ndarray, **more: Any) -> str:
    """Everything that was drawn and measured for a sample with the recorded `alpha`, as JSON."""
    factors = {
        **scene.factors,
        "transmissive": scene.transmissive(),
        "measured": made.measured,
        "coverage": round(float(alpha.mean(dtype=np.float64)), 6),
    }
    return json.dumps({**factors, **more}, sort_keys=True)


def _instances(instances: np.ndarray, alpha: np.ndarray, softness: float) -> np.ndarray:
    """Instance ids uint8 [H, W] that reach as far as a blurred matte: where alpha >= 0.5."""
    import cv2

    if not softness:
        return instances
    side = 2 * int(np.ceil(3 * softness)) + 1
    reaching = cv2.dilate(instances, np.ones((side, side), np.uint8))
    return np.where(instances > 0, instances, reaching) * (alpha >= 0.5)


def _classes(scene: Scene, instances: np.ndarray) -> np.ndarray:
    """The class of each pixel, uint8 [H, W], from its instance."""
    table = np.array([0, *(record["class"] for record in scene.factors["instances"])], np.uint8)
    return table[instances]


def _surroundings_seen(scene: Scene, brightness: float, size: int) -> np.ndarray:
    """What the camera sees of the environment that lights the scene, of mean luminance `brightness` before clipping.

    Linear float32 [size, size, 3] in [0, 1].
    """
    camera = scene.camera
    seen = seen_by(scene.sky, camera.target - camera.origin, camera.up, camera.fov, size)
    return np.clip(seen * (brightness / max(float(luminance(seen).mean()), 1e-4)), 0.0, 1.0)


def make_pairs(recipe: Any, seed: int, foreground: int, indices: list[int], size: int) -> list[Pair]:
    """The samples `indices` of one foreground, each a pure function of (recipe, seed, index, size).

    `render.start` must have been called in this process.
    """
    target_ids = recipe.target == "classes"
    scene, made = make_foreground(recipe, seed, foreground, size, target_ids)
    cover = alpha_of(alpha_levels(made.cover))
    sky = scene.factors["lights"]["sky"]
    pairs = []
    for index in indices:
        rng = stream(seed, PICTURE_STREAM, index)
        exposure, captured = draw(rng, recipe.exposure), draw(rng, recipe.capture)
        exposed = expose(made.colour, cover, **exposure, clear=scene.transmissive())
        first = index == foreground * recipe.composites_per_foreground
        subject_colour = None if sky == "background" and first else mean_colour(exposed, cover)
        background, drawn = background_of(recipe, seed, index, size, subject_colour, sources_of(recipe, seed))
        if sky == "environment" and (first or scene.surroundings):
            background, drawn["kind"] = _surroundings_seen(scene, drawn["brightness"], size), "environment"
        alpha = recorded_alpha(made.alpha, captured)
        factors = _factors(scene, made, alpha, exposure=exposure, background=drawn, capture=captured)
        alpha = alpha_of(alpha_levels(alpha))
        meta = {"seed": seed, "index": index, "recipe": recipe.name, "factors": factors}
        image = capture(composite(exposed, cover, background), captured, rng)
        ids = {}
        if target_ids:
            instances = _instances(made.instances, alpha, as_reduced(captured)["softness"])
            ids = {"instances": instances, "classes": _classes(scene, instances)}
        pairs.append(Pair(image, alpha, meta, **ids))
    return pairs


def make_layers(recipe: Any, seed: int, index: int, size: int) -> Layers:
    """Foreground `index` and a background of its own, not yet composited: a pure function of the arguments.

    `render.start` must have been called in this process.
    """
    scene, made = make_foreground(recipe, seed, index, size)
    background, drawn = background_of(recipe, seed, index, size, None, sources_of(recipe, seed))
    if scene.factors["lights"]["sky"] == "environment":
        background, drawn["kind"] = _surroundings_seen(scene, drawn["brightness"], size), "environment"
    meta = {
        "seed": seed,
        "index": index,
        "recipe": recipe.name,
        "factors": _factors(scene, made, made.alpha, background=drawn),
    }
    highest = np.finfo(np.float16).max
    colour, alpha = np.minimum(made.colour, highest).astype(np.float16), made.alpha.astype(np.float16)
    stored = np.round(linear_to_srgb(background) * 255).astype(np.uint8)
    return Layers(colour, alpha, made.instances, stored, meta)
