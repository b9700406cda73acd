"""Checks a data set before anything is trained on it: `sdseg doctor --config FILE`, with `--all` every pair of it.

Mattes that are inverted, binary or of another size would otherwise be noticed hours later, or never. `train.py` runs
the same checks before it loads any weight, and stops at the first error; `sdseg doctor` prints everything it finds.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg.errors import reported, steady_streams
from sdseg.training.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from sdseg.data import PairFiles, Source

EXAMINED = 128  # pairs whose pixels are read
COMPARED = 4096  # files that are read, at most, to find those of the same bytes
EMPTY = "mattes are empty (all 0)"
FULL = "mattes are full (all 1)"
BINARY = "mattes hold nothing but 0 and 1"
INVERTED = "mattes look inverted (1 all along the border, less inside)"
SAME = "images are their own mattes"
PREMULTIPLIED = "images look premultiplied (black where alpha is 0, never brighter than alpha)"
VOID = "class maps are void all over (all 255)"
REMEDIES = {
    VOID: "remove these: nothing can be learnt from them",
    EMPTY: "render these again or remove them, unless pictures without a subject are wanted",
    FULL: "render these again or remove them: nothing is cut out of such a picture",
    BINARY: "a matting model trained on binary masks loses hair and glass; give mattes with soft edges",
    INVERTED: "alpha must be 1 where the subject is; save 1 - alpha",
    SAME: "set image_column and alpha_column to different files",
    PREMULTIPLIED: "give whole pictures, with their backgrounds, as a camera sees them",
}
SOME_INVERTED = "mattes are mostly 1 along the border and less inside"


@dataclass(frozen=True)
class Finding:
    """A problem of a data set, or a likely one."""

    place: str  # the data set
    text: str  # what, in which file, and the remedy; one line
    pair: int | None = None  # index of the pair that cannot be trained on; None is a warning

    @property
    def is_error(self) -> bool:
        return self.pair is not None

    def __str__(self) -> str:
        return f"{'error' if self.is_error else 'warning'}: {self.place}: {self.text}"


def examine(source: Source, examined: int | None = EXAMINED) -> Iterator[Finding]:
    """Errors and warnings, one line each, of a source of pairs or of each that it mixes.

    The sizes of all pairs that are files are compared. Up to `examined` pairs are read whole: evenly spaced ones,
    and the first ones of a set that is streamed; None reads all.
    """
    from tqdm import tqdm

    from sdseg.data import MixedSource, PairError, PictureSource, RecomposedSource, StreamedSource

    if isinstance(source, MixedSource):
        for part in source.sources:
            yield from examine(part, examined)
        return
    yield from (Finding(source.place, note) for note in source.notes)
    bad = set()
    for index, problem in known_problems(source):
        bad.add(index)
        yield Finding(source.place, problem, index)
    examined = examined or len(source)
    spacing = 1 if isinstance(source, StreamedSource) else max(1, len(source) // examined)
    chosen = range(0, len(source), spacing)[:examined]
    doubted: dict[str, list[str]] = defaultdict(list)
    for index in tqdm(chosen, desc="reading pairs", unit="pair", leave=False, delay=2):
        if index in bad:
            continue
        try:
            image, alpha = source.read(index)
        except PairError as error:
            bad.add(index)
            yield Finding(source.place, str(error), index)
            continue
        for doubt in doubts(image, alpha, source.target.kind):
            doubted[doubt].append(source.name(index))
    if 2 * len(doubted[SOME_INVERTED]) > len(chosen):  # a subject that the frame cuts may cover most of one border
        doubted[INVERTED] = doubted[SOME_INVERTED]
    for doubt, remedy in REMEDIES.items():
        if names := doubted[doubt]:
            text = f"{len(names)} of {len(chosen)} {doubt}, the first is {names[0]}; {remedy}"
            yield Finding(source.place, text)
    if not isinstance(source, RecomposedSource):
        few = chosen[:: max(1, len(chosen) // EXAMINED)]  # their bytes lie in memory together
        indices = range(len(source)) if isinstance(source, PictureSource) else few
        candidates = (source.pairs[index] for index in indices if index not in bad)
        if twice := repeated(candidates):
            text = f"{len(twice)} images are there twice, such as {twice[0][0]} and {twice[0][1]}; remove one of each"
            yield Finding(source.place, text)


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Prints warnings, and raises ConfigError at the first error."""
    for finding in findings:
        if finding.is_error:
            raise ConfigError(f"{finding.place}: {finding.text} (sdseg doctor prints all findings)")
        print(finding, file=sys.stderr)


def known_problems(source: Source) -> Iterator[tuple[int, str]]:
    """Pairs that cannot be trained on, and why, as far as headers of files and what lists them say."""
    from sdseg.data import PictureSource

    faults = source.faults()
    for index in range(len(source)) if isinstance(source, PictureSource) else faults:
        if problem := faults.get(index) or size_problem(source.pairs[index]):
            yield index, problem


def size_problem(pair: PairFiles) -> str | None:
    """Why two files cannot be a pair, judged by their headers: one is unreadable, or their sizes differ."""
    from sdseg.data import PairError
    from sdseg.data.pairs import reading
    from sdseg.imaging import picture_size

    try:
        with reading(pair.name):
            sizes = [picture_size(path) for path in (pair.image, pair.alpha)]
    except PairError as error:
        return str(error)
    if sizes[0] == sizes[1]:
        return None
    return (
        f"{pair.name} is {sizes[0][0]}x{sizes[0][1]} but its alpha {pair.alpha} is {sizes[1][0]}x{sizes[1][1]}; "
        "both must have one size"
    )


def doubts(image: np.ndarray, alpha: np.ndarray, target: str = "alpha") -> list[str]:
    """Keys of REMEDIES, or SOME_INVERTED, that hold for a pair uint8 [H, W, 3] and float32 [H, W] in [0, 1], or of
    target classes int32 [H, W]."""
    import numpy as np

    if target == "classes":
        return [VOID] if alpha.max() < 0 else []
    if alpha.max() == 0:
        return [EMPTY]
    if alpha.min() == 1:
        return [FULL]
    keys = []
    if target == "alpha" and ((alpha == 0) | (alpha == 1)).all():
        keys.append(BINARY)
    border = np.concatenate([alpha[0], alpha[-1], alpha[1:-1, 0], alpha[1:-1, -1]])
    covered = (border > 0.5).mean()
    if covered > 0.5 and border.mean() > alpha.mean():
        keys += [SOME_INVERTED, INVERTED] if covered > 0.99 else [SOME_INVERTED]
    levels = alpha[..., None] * 255
    if np.abs(image - levels).mean() < 1:
        keys.append(SAME)
    elif (alpha < 0.5).mean() > 0.05 and (image <= levels + 2).all():
        keys.append(PREMULTIPLIED)
    return keys


def repeated(pairs) -> list[tuple[str, str]]:
    """Pairs of names of images with the same bytes, among the first COMPARED that share their size with another."""
    of_size = defaultdict(list)
    for pair in pairs:
        size = pair.image.stat().st_size if isinstance(pair.image, Path) else len(pair.image.content)
        of_size[size].append(pair)
    candidates = [pair for alike in of_size.values() if len(alike) > 1 for pair in alike]
    first, found = {}, []
    for pair in candidates[:COMPARED]:
        content = pair.image.read_bytes() if isinstance(pair.image, Path) else pair.image.content
        name = first.setdefault(hashlib.sha256(content).digest(), pair.name)
        if name != pair.name:
            found.append((name, pair.name))
    return found


def main(argv: list[str] | None = None) -> int:
    """Prints all findings; returns 0 if the data can be trained on, else 2."""
    return reported(lambda: run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    from sdseg.training.config import parse_training_config
    from sdseg.training.data import open_data

    every = "--all" in argv
    config = parse_training_config(
        ["--output_dir=runs/none", *(argument for argument in argv if argument != "--all")],
        prog="sdseg doctor",
        description="Look over the pairs that a training config names: nothing is trained or written. With --all every "
        f"pair is read, else {EXAMINED} of each data set.",
    )
    pictures, held_out = open_data(config)
    findings = []
    for source in filter(None, (pictures, held_out)):
        for finding in examine(source, None if every else EXAMINED):
            findings.append(finding)
            print(finding)
    errors = sum(finding.is_error for finding in findings)
    print(f"{config.train_data_dir}: {len(pictures)} pairs; {errors} errors, {len(findings) - errors} warnings")
    return 2 if errors > config.max_unreadable else 0


if __name__ == "__main__":
    steady_streams()
    sys.exit(main())
