"""Rendering speed: seconds per foreground by family and size, a fit over size, and scaling over worker processes.

    python benchmarks/rendering.py --output rendering.json

Each cell renders one subject of a family without camera blur, at the recipe's samples per pixel; nothing is
composited or written. Times per core are process time of one single-threaded process. Each scene's time is fitted by
a + b x pixels x samples, by least squares of the relative error: a is building and loading, b the cost of a path (of
the recipe: where light passes through the subject, several are traced for one). Scaling over workers is wall time, so
the machine must be idle; it covers complete runs of the recipe including files. Distractors of backgrounds are left
out: each worker renders a fixed number of them once per run.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import yaml

from synth_data import compose, render
from synth_data.recipe import Recipe, load_recipe, parse_recipe
from synth_data.workers import render_dataset

SAMPLE_FACTORS = (0.25, 4)  # factors of the recipe's samples per pixel, at the smallest size
SCALING_SIZE = 64  # pixels; small, so that no single picture dominates the comparison of workers
LARGE = 512  # pixels; from this size on one scene per cell is the default
STAGES = ("describe", "refraction", "load", "render")


def altered(recipe: Recipe, families: list[str], alone: bool) -> Recipe:
    """The recipe with these families only and no distractors; if `alone`, with one sharp subject per picture."""
    content = yaml.safe_load(recipe.text)
    content["families"] = {name: share for name, share in recipe.families if name in families}
    content.setdefault("background", {})["distractors"] = [0, 0]
    if alone:
        content["arrangement"] = {}
        content.setdefault("camera", {}).update(dict.fromkeys(("defocus", "motion", "spin"), [0, 0]))
    return parse_recipe(yaml.safe_dump(content), recipe.name)


def watch() -> dict[str, float]:
    """Instruments every stage but `load`: process time of outermost calls accumulates in the returned dict."""
    import mitsuba

    spent, within = dict.fromkeys(STAGES, 0.0), []

    def timed(stage: str, function: Callable) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            if within:
                return function(*arguments, **named)
            within.append(stage)
            began = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                spent[stage] += time.process_time() - began
                within.pop()

        return call

    compose.describe = timed("describe", compose.describe)
    compose.refraction = timed("refraction", compose.refraction)
    render.media = timed("render", render.media)
    mitsuba.render = timed("render", mitsuba.render)
    return spent


def measure(recipe: Recipe, seed: int, scene: int, size: int, spent: dict[str, float]) -> dict[str, float]:
    """Process time of one foreground in seconds, in total and by stage, and its `wall` time."""
    spent.update(dict.fromkeys(STAGES, 0.0))
    wall, process = time.perf_counter(), time.process_time()
    compose.make_foreground(recipe, seed, scene, size)
    seconds, wall = time.process_time() - process, time.perf_counter() - wall
    stages = spent | {"load": seconds - sum(spent.values())}  # shapes, strand files and acceleration structures
    paths = size**2 * recipe.samples_per_pixel
    return {"scene": scene, "paths": paths, "seconds": seconds, "wall": wall} | stages


def fit(rows: list[dict[str, Any]], key: str = "seconds") -> tuple[float, float, float] | None:
    """(a, b, largest relative deviation) of key = a + b paths over one scene's rows; None below two path counts."""
    x = np.array([row["paths"] for row in rows], float)
    y = np.array([row[key] for row in rows])
    if len(set(x)) < 2:
        return None
    a, b = np.polynomial.polynomial.polyfit(x, y, 1, w=1 / y)
    return float(a), float(b), float(np.abs((a + b * x) / y - 1).max())


def expected(rows: list[dict[str, Any]], paths: int) -> float:
    """Expected wall seconds of one scene of a cell, from the first scene's rows; 0 without any."""
    rows = [row for row in rows if row["scene"] == 0]
    if known := fit(rows, "wall") if rows else None:
        return known[0] + known[1] * paths
    return max((row["wall"] * max(1.0, paths / row["paths"]) for row in rows), default=0.0)


def scaling(recipe: Recipe, seed: int, pictures: int, counts: list[int]) -> list[dict[str, Any]]:
    """Pictures per second of wall time, process starts included, for each number of workers."""
    rows = []
    for workers in counts:
        with tempfile.TemporaryDirectory() as folder:
            load, began = os.getloadavg()[0], time.perf_counter()
            render_dataset(recipe, seed, range(pictures), SCALING_SIZE, Path(folder) / "set", workers)
            rate = pictures / (time.perf_counter() - began)
        ratio = rate / rows[0]["rate"] if rows else 1.0
        rows.append({"workers": workers, "pictures": pictures, "rate": rate, "ratio": ratio, "load": load})
    return rows


def print_tables(results: dict[str, Any], families: list[str]) -> None:
    """The cells, the fits and the scaling as Markdown."""

    def line(*cells: Any) -> None:
        print("| " + " | ".join(map(str, cells)) + " |")

    line("family", "px", "samples", "scenes", "seconds per picture", "pictures/s per core", *STAGES)
    line(*["---"] * (6 + len(STAGES)))
    for c in sorted(results["cells"], key=lambda c: (families.index(c["family"]), c["size"], c["samples"])):
        if "not_run" in c:
            line(c["family"], c["size"], c["samples"], 0, c["not_run"], *["-"] * (1 + len(STAGES)))
            continue
        shares = (f"{100 * share:.0f} %" for share in c["shares"].values())
        seconds = c["seconds"]
        line(c["family"], c["size"], c["samples"], len(c["scenes"]), f"{seconds:.2f}", f"{1 / seconds:.3g}", *shares)
    print()
    line("family", "a, s", "b, µs per path", "largest deviation")
    line(*["---"] * 4)
    for family, one in results["fits"].items():
        line(family, f"{one['a']:.2f}", f"{1e6 * one['b']:.3f}", f"{100 * one['deviation']:.0f} %")
    print()
    line(f"workers, {SCALING_SIZE} px", "pictures", "pictures/s", "relative to the first", "load average before")
    line(*["---"] * 5)
    for r in results["scaling"]:
        line(r["workers"], r["pictures"], f"{r['rate']:.3g}", f"{r['ratio']:.2f}", f"{r['load']:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="configs/recipes/everything.yaml")
    parser.add_argument("--families", nargs="*", help="families to measure (default: all with a share)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512], help="side lengths in pixels")
    parser.add_argument("--scenes", type=int, help=f"scenes per cell (default 2; 1 from {LARGE} px on)")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="numbers of workers to compare")
    parser.add_argument(
        "--pictures", type=int, default=300, help="pictures rendered with each number of workers (default 300)"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=3600,
        help="wall seconds (default 3600); cells that would exceed them are left out",
    )
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    began = time.perf_counter()
    recipe, sizes = load_recipe(options.recipe), sorted(options.sizes)
    families = [f for f, share in recipe.families if share and (not options.families or f in options.families)]
    if unshared := set(options.families or ()) - set(families):
        parser.error(f"--families: {', '.join(sorted(unshared))} has no share in {options.recipe}")
    several = altered(recipe, families, False)
    results: dict[str, Any] = {"cells": [], "fits": {}}
    results["scaling"] = scaling(several, options.seed, options.pictures, options.workers)

    render.start()
    spent, rows = watch(), {family: [] for family in families}
    only = {family: altered(recipe, [family], True) for family in families}
    for family in families:  # warm up imports and caches
        compose.make_foreground(only[family], options.seed, 0, 8)
    usual = recipe.samples_per_pixel
    other = [max(1, round(factor * usual)) for factor in SAMPLE_FACTORS]
    cells = [(sizes[0], n) for n in (usual, *other)] + [(size, usual) for size in sizes[1:]]
    for size, samples in cells:
        scenes = 1 if samples != usual else options.scenes or (2 if size < LARGE else 1)
        expect = {f: scenes * expected(rows[f], size**2 * samples) for f in families}
        for family in sorted(families, key=expect.get):  # fast ones first, so that most fit into the budget
            left = options.budget - (time.perf_counter() - began)
            cell = {"family": family, "size": size, "samples": samples}
            if left <= expect[family]:
                why = (
                    f"not run: about {expect[family]:.0f} s, {left:.0f} s left" if left > 0 else "not run: no time left"
                )
                results["cells"].append(cell | {"not_run": why})
                continue
            resampled = replace(only[family], samples_per_pixel=samples)
            new = [measure(resampled, options.seed, k, size, spent) for k in range(scenes)]
            rows[family] += new
            total = sum(row["seconds"] for row in new)
            shares = {stage: sum(row[stage] for row in new) / total for stage in STAGES}
            results["cells"].append(cell | {"seconds": total / scenes, "shares": shares, "scenes": new})
            print(f"{family}, {size} px, {samples} samples: {total / scenes:.2f} s", file=sys.stderr, flush=True)
            numbers = {row["scene"] for row in rows[family]}
            scenes_of = [[row for row in rows[family] if row["scene"] == k] for k in numbers]
            if fits := [one for one in map(fit, scenes_of) if one]:
                a, b, deviation = np.array(fits).T
                results["fits"][family] = {"a": a.mean(), "b": b.mean(), "deviation": deviation.max()}
            if options.output:  # partial results, in case of an interruption
                options.output.write_text(json.dumps(results, indent=1) + "\n")
    print_tables(results, families)


if __name__ == "__main__":
    main()
