"""benchmarks/memory.py: what a large photo takes beside the model, with the limit that docs/inference.md names."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import memory as benchmark

PLANE = 4 * 6000 * 4000


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in benchmark.MODES if mode not in benchmark.MORE])
def test_a_photo_of_24_megapixels_takes_three_planes(tmp_path, mode):
    benchmark.write_photos(tmp_path, 6000, 4000)
    taken = benchmark.peak(benchmark.MODES[mode], tmp_path)
    assert PLANE < taken < 3 * PLANE + 2**20, f"{taken / PLANE:.2f} planes"
