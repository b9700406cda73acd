"""Measures how exact the mattes are: I = C + (1 - alpha) B against a direct render over the same background, by family.

    python benchmarks/exact_alpha.py --recipe configs/recipes/everything.yaml --samples 1024 --output alpha.json

The background is a textured, emitting plate. It also lights the subject, so it is part of both renders and only hidden
from the camera in that of the foreground. For glass, colour and alpha come from a black and a white plate instead, and
the direct render over the textured plate shows what they miss: tint and refraction.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from synth_data.backgrounds import BackgroundFactors, draw_background
from synth_data.colour import linear_to_srgb
from synth_data.compose import sources_of
from synth_data.factors import draw
from synth_data.recipe import load_recipe
from synth_data.render import (
    PLATE_MARGIN,
    TRANSMISSIVE_SAMPLES,
    media,
    over_plate,
    refraction,
    render_foreground,
    start,
)
from synth_data.scene import Scene, describe
from synth_data.subjects.meshes import TRANSMISSIVE, blackened


def levels(linear: np.ndarray) -> np.ndarray:
    """Linear light as sRGB, 0 to 255, not rounded."""
    return linear_to_srgb(linear) * 255


def plate_picture(seed: int, resolution: int = 256) -> np.ndarray:
    """A background with detail at every scale, linear light [resolution, resolution, 3]."""
    rng = np.random.default_rng(seed)
    kinds = tuple((kind, 1.0) for kind in ("clutter", "room", "landscape", "tiles"))
    factors = draw(rng, BackgroundFactors(kind=kinds)) | {"grain": 0.0, "similar": False, "brightness": 0.3}
    return draw_background(rng, resolution, factors, np.full(3, 0.5))


def plate_alone(scene: Scene, picture: np.ndarray, size: int) -> np.ndarray:
    """The camera's view of the plate without subjects: linear light [size, size, 3], by area averaging.

    Only for a camera without blur: the plate is PLATE_MARGIN frames wide, with the frame in its middle.
    """
    import cv2

    fine = 8 * size
    line = (0.5 + ((np.arange(fine) + 0.5) / fine - 0.5) / PLATE_MARGIN) * len(picture) - 0.5
    x, y = np.meshgrid(line.astype(np.float32), line.astype(np.float32))
    seen = cv2.remap(picture.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(seen, (size, size), interpolation=cv2.INTER_AREA)


def compare(scene: Scene, size: int, samples: int, depth: int, seed: int) -> dict[str, float]:
    """The figures of one scene, whose camera must be without blur.

    Returns:
        difference: mean |I - (C + (1 - alpha) B)| in levels of 255 over the whole picture, I and C from two seeds.
        noise: the same between two direct renders of two seeds.
        on_subject, noise_on_subject: the same over the pixels with alpha > 0.
        fractional: share of pixels with 0.02 < alpha < 0.98.
        residual, refraction: of glass only, see render.Foreground and render.refraction.
    """
    picture = plate_picture(seed)
    background = plate_alone(scene, picture, size)
    first, second = (over_plate(scene, picture, size, samples, depth, seed + k)[..., :3] for k in (1, 2))
    figures: dict[str, float] = {}
    if refracting(scene):
        made = render_foreground(scene, size, samples // TRANSMISSIVE_SAMPLES, depth, seed)
        colour, alpha = made.colour, made.alpha
        figures = made.measured | {"refraction": refraction(scene, depth, seed)}
    else:
        rendered = over_plate(scene, picture, size, samples, depth, seed, hidden=True)
        colour, alpha = rendered[..., :3], rendered[..., 3]
        if scene.cut_out():  # the plate is visible through holes
            black = replace(scene, subjects=[blackened(subject) for subject in scene.subjects])
            colour = np.maximum(
                colour - over_plate(black, picture, size, samples, depth, seed, hidden=True)[..., :3], 0
            )
            alpha = render_foreground(scene, size, samples, depth, seed).alpha
        if scene.transmissive():  # media: transmission is a ray integral
            nothing = np.zeros((size, size))
            glow, passed = media(scene, nothing, nothing, size)
            first, second = first + glow, second + glow  # the path tracer leaves out light from media
            colour, alpha = colour + glow, 1 - passed
    composed = colour + (1 - alpha[..., None]) * background
    difference = np.abs(levels(first) - levels(composed)).mean(-1)
    noise = np.abs(levels(first) - levels(second)).mean(-1)
    on = alpha > 0
    return figures | {
        "difference": float(difference.mean()),
        "noise": float(noise.mean()),
        "on_subject": float(difference[on].mean()) if on.any() else 0.0,
        "noise_on_subject": float(noise[on].mean()) if on.any() else 0.0,
        "fractional": float(((alpha > 0.02) & (alpha < 0.98)).mean()),
    }


def refracting(scene: Scene) -> bool:
    """Whether the scene contains glass."""
    return any(mesh.material["kind"] in TRANSMISSIVE for subject in scene.subjects for mesh in subject.meshes)


def sharp_scene(recipe: Any, seed: int, foreground: int) -> Scene:
    """A scene of the recipe for `compare`, without surroundings or blur."""
    scene = describe(recipe, seed, foreground, sources=sources_of(recipe, seed))
    return replace(scene, camera=replace(scene.camera, aperture=0.0, motion=np.zeros(3), spin=0.0), surroundings=[])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="configs/recipes/everything.yaml")
    parser.add_argument("--families", nargs="*", help="only these (default: all with a share)")
    parser.add_argument("--scenes", type=int, default=2, help="per family (default 2)")
    parser.add_argument("--samples", type=int, default=1024, help="light paths per pixel (default 1024)")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--depth", type=int, default=16, help="segments of a light path (default 16)")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    start()
    rows = []
    for family, share in recipe.families:
        if share == 0 or (options.families and family not in options.families):
            continue
        only = parse_only(recipe, family, options.recipe)
        for k in range(options.scenes):
            scene = sharp_scene(only, options.seed, k)
            through = scene.transmissive() or scene.cut_out()
            depth = options.depth if through else only.max_depth  # every transparent layer takes a segment
            figures = compare(scene, options.size, options.samples, depth, options.seed + 10 * k)
            rows.append({"family": family, "scene": k, "samples": options.samples, "size": options.size} | figures)
            print(json.dumps(rows[-1]), flush=True)
            if options.output:
                options.output.write_text(json.dumps(rows, indent=1) + "\n")


def parse_only(recipe: Any, family: str, name: str) -> Any:
    """The recipe reduced to one family and one subject per picture."""
    import yaml

    from synth_data.recipe import parse_recipe

    content = yaml.safe_load(recipe.text)
    content["families"] = {family: 1}
    content["arrangement"] = {}
    return parse_recipe(yaml.safe_dump(content), name)


if __name__ == "__main__":
    main()
