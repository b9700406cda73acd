"""Draws the pictures of synthetic_data.md: a contact sheet for each family of subjects and for each kind of scene.

    python docs/make_pictures.py --workers 8

Each cell is a picture beside its matte. The sheets depend on the recipe and the seed only. soft.json beside them holds
the share of pixels with 0.02 < alpha < 0.98, of all pixels and of those with alpha > 0.02.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from synth_data.drawing import contact_sheet
from synth_data.recipe import parse_recipe
from synth_data.workers import render_pairs

ROOT = Path(__file__).parents[1]
EVERYTHING = ROOT / "configs" / "recipes" / "everything.yaml"
SEED = 11
SHARED = {"samples_per_pixel": 128, "composites_per_foreground": 1, "capture": {}}
SINGLE = {"arrangement": {}, "camera": {"extent": [0.6, 1.05], "elevation": [-5, 35], "roll": [-10, 10]}}
COSTLY = {
    "glass": {"samples_per_pixel": 32},
    "smoke": {"samples_per_pixel": 32},
}  # rendering multiplies them by four
SOLID = {"families": {"fur": 1, "hair": 1, "foliage": 1, "lattice": 1, "wires": 1, "solids": 2, "cloth": 1}}
SCENES = {
    "arrangement": {"arrangement": {"subjects": [2, 4], "spread": [0.2, 0.9], "scale": [0.4, 1]}} | SOLID,
    "in_scene": {"arrangement": {"in_scene": 1}} | SOLID,
    "blur": {"arrangement": {}, "camera": {"defocus": [0.04, 0.1], "focus": [0, 1], "motion": [0, 0.06]}} | SOLID,
}


def draw(name: str, changes: dict, seed: int, size: int, workers: int) -> None:
    """Writes docs/pictures/NAME.jpg, eight samples of the full recipe with `changes`."""
    content = yaml.safe_load(EVERYTHING.read_text()) | SHARED | changes | {"name": name}
    pairs = render_pairs(parse_recipe(yaml.safe_dump(content), name), seed, list(range(8)), size, workers)
    output = ROOT / "docs" / "pictures" / f"{name}.jpg"
    output.parent.mkdir(exist_ok=True)
    drawn = contact_sheet([(pair.image, pair.alpha) for pair in pairs], columns=4)
    Image.fromarray(drawn).save(output, quality=88)
    alpha = np.stack([pair.alpha for pair in pairs])
    soft = ((alpha > 0.02) & (alpha < 0.98)).sum()
    table = output.with_name("soft.json")
    known = json.loads(table.read_text()) if table.is_file() else {}
    known[name] = {
        "of_picture": round(float(soft / alpha.size), 4),
        "of_subject": round(float(soft / (alpha > 0.02).sum()), 4),
    }
    table.write_text(json.dumps(known, indent=1) + "\n")
    print(output, known[name], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="families or scenes (default: all)")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    families = yaml.safe_load(EVERYTHING.read_text())["families"]
    sheets = {family: SINGLE | {"families": {family: 1}} | COSTLY.get(family, {}) for family in families} | SCENES
    for position, (name, changes) in enumerate(sheets.items()):
        if not options.names or name in options.names:
            draw(name, changes, SEED + position, options.size, options.workers)


if __name__ == "__main__":
    main()
