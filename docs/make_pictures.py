"""Draws the pictures of synthetic_data.md: a contact sheet for each family of subjects, and one for each kind of scene.

    python docs/make_pictures.py --workers 8

Each cell is a picture beside its matte. The sheets are functions of the recipe and the seed alone.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
EVERYTHING = ROOT / "configs" / "recipes" / "everything.yaml"
SEED = 11
SHARED = {"samples_per_pixel": 192, "composites_per_foreground": 1, "capture": {}}
SINGLE = {"arrangement": {}, "camera": {"extent": [0.6, 1.05], "elevation": [-5, 35], "roll": [-10, 10]}}
SCENES = {
    "arrangement": {"arrangement": {"subjects": [2, 4], "spread": [0.2, 0.9], "scale": [0.4, 1]}},
    "in_scene": {"arrangement": {"in_scene": 1}, "families": {"fur": 1, "solids": 2, "foliage": 1, "cloth": 1}},
    "blur": {"arrangement": {}, "camera": {"defocus": [0.04, 0.1], "focus": [0, 1], "motion": [0, 0.06]}},
}


def draw(name: str, changes: dict, size: int, workers: int) -> None:
    """docs/pictures/NAME.jpg, eight samples of the full recipe with `changes`."""
    content = yaml.safe_load(EVERYTHING.read_text()) | SHARED | changes | {"name": name}
    with tempfile.TemporaryDirectory() as folder:
        recipe, sheet = Path(folder) / "recipe.yaml", Path(folder) / "sheet.png"
        recipe.write_text(yaml.safe_dump(content))
        command = [sys.executable, "-m", "synth_data", "preview", "--recipe", recipe, "--count", 8, "--columns", 4]
        command += ["--size", size, "--seed", SEED, "--workers", workers, "--output", sheet]
        subprocess.run([str(word) for word in command], cwd=ROOT, check=True)
        output = ROOT / "docs" / "pictures" / f"{name}.jpg"
        output.parent.mkdir(exist_ok=True)
        Image.open(sheet).save(output, quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="families or scenes (default: all)")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    families = yaml.safe_load(EVERYTHING.read_text())["families"]
    sheets = {family: SINGLE | {"families": {family: 1}} for family in families} | SCENES
    for name in options.names or sheets:
        draw(name, sheets[name], options.size, options.workers)


if __name__ == "__main__":
    main()
