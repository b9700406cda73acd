"""One function for each set: folder and split -> BenchmarkSet. Each raises Missing for another layout."""

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from sdseg.errors import one_line, require
from sdseg.evaluation.benchmark_sets.class_tables import (
    CITYSCAPES_27,
    CITYSCAPES_TABLE,
    COCO_STUFF_27,
    COCO_STUFF_TABLE,
    FEW_SHOT,
    MNIST,
    VOC,
    identity_table,
)
from sdseg.evaluation.benchmark_sets.descriptions import SETS
from sdseg.evaluation.benchmark_sets.items import BenchmarkSet, Item, Kind, read_mask, read_matte
from sdseg.evaluation.benchmark_sets.layouts import (
    Missing,
    by_name,
    find_file,
    find_folder,
    label_reader,
    map_labels,
    need,
    pair_folders,
    pictures,
    read_list,
)
from sdseg.imaging import ImageError, raw_picture, read_alpha

Opener = Callable[[str, Path, str], BenchmarkSet]  # (name, folder, split)


def numbered(names: list[str]) -> dict[int, str]:
    """Class names by id."""
    return dict(enumerate(names))


# ------------------------------------------------------------------------------------------ pairs of folders


def folders(kind: Kind, photos: dict[str, list[str]], truths: str, trimaps: str | None = None) -> Opener:
    """A set of photos and truths in sibling folders.

    Args:
        photos: split -> where its folder of photos may lie below the set's folder, most usual first.
        truths, trimaps: names of the folders beside it. The folder of trimaps may be missing, single trimaps may not.
    """

    def open_folders(name: str, folder: Path, split: str) -> BenchmarkSet:
        images = find_folder(folder, photos[split])
        masks = find_folder(images.parent, [truths])
        drawn = images.parent / trimaps if trimaps else None
        items = pair_folders(images, masks, drawn if drawn and drawn.is_dir() else None)
        reader = read_matte if kind == "matte" else read_mask
        return BenchmarkSet(name, kind, items, split=split, truth_reader=reader)

    return open_folders


def below(*roots: str, to: str) -> list[str]:
    """The folder `to`, in the given folder itself or in one of `roots` below it."""
    return [to, *(f"{root}/{to}" for root in roots)]


def alphamatting(name: str, folder: Path, split: str) -> BenchmarkSet:
    """27 pictures; the first of the two trimaps of each."""
    images = find_folder(folder, [f"input_training_{split}"])
    truths = find_folder(folder, [f"gt_training_{split}"])
    trimaps = find_folder(folder, [f"trimap_training_{split}/Trimap1"])
    return BenchmarkSet(name, "matte", pair_folders(images, truths, trimaps), split=split)


# -------------------------------------------------------------------------------------------- Composition-1k

BACKGROUNDS_EACH = 20


def composition_1k(name: str, folder: Path, split: str) -> BenchmarkSet:
    """Each test foreground over the next 20 backgrounds of the list; composed when read."""
    root = find_folder(folder, below("Combined_Dataset", to="Test_set"))
    layers = find_folder(root, ["Adobe-licensed images"])
    parts = {part: find_folder(layers, [part]) for part in ("fg", "alpha", "trimaps")}
    candidates = ["VOC2012/JPEGImages", "VOCdevkit/VOC2012/JPEGImages", "JPEGImages"]
    backgrounds = find_folder(folder, candidates)
    foreground_names = read_list(find_file(root, ["test_fg_names.txt"]))
    background_names = read_list(find_file(root, ["test_bg_names.txt"]))
    if len(background_names) != BACKGROUNDS_EACH * len(foreground_names):
        raise Missing(
            f"test_bg_names.txt lists {len(background_names)} backgrounds for {len(foreground_names)} foregrounds, "
            f"not {BACKGROUNDS_EACH} each"
        )
    items = []
    for index, background in enumerate(background_names):
        foreground = foreground_names[index // BACKGROUNDS_EACH]
        stem = f"{Path(foreground).stem}_{index % BACKGROUNDS_EACH}"
        files = {part: parts[part] / foreground for part in ("fg", "alpha")}
        files |= {"trimaps": parts["trimaps"] / f"{stem}.png", "background": backgrounds / background}
        for part, path in files.items():
            if not path.is_file():
                raise Missing(f"{path.name} in {path.parent.name}/ ({part}) is missing")
        sources = (files["fg"], files["background"])
        items.append(Item(stem, None, files["alpha"], files["trimaps"], sources, index))
    return BenchmarkSet(name, "matte", items, split=split, image_reader=read_composite)


def read_composite(item: Item) -> np.ndarray:
    """I = α F + (1 − α) B in 8-bit sRGB values, truncated to whole levels; uint8 [H, W, 3] at the foreground's size.

    As in the data set's own script, a background that does not cover the foreground is enlarged until it does
    (bicubic, Pillow), and its upper left part is taken. Transparency and profiles in a foreground's file are ignored.
    """
    from PIL import Image

    foreground, background = (raw_picture(path, "RGB") for path in item.sources)
    width, height = foreground.size
    ratio = max(width / background.width, height / background.height)
    if ratio > 1:
        size = (math.ceil(background.width * ratio), math.ceil(background.height * ratio))
        background = background.resize(size, Image.Resampling.BICUBIC)
    background = background.crop((0, 0, width, height))
    # In single precision, truncation could turn a whole level into the one below.
    alpha = np.rint(read_alpha(item.truth).astype(np.float64) * 255)[..., None] / 255
    if alpha.shape[:2] != (height, width):
        raise ImageError(
            f"{item.truth}: does not have the size of its foreground {item.sources[0]}; download both again"
        )
    return (alpha * np.asarray(foreground) + (1 - alpha) * np.asarray(background)).astype(np.uint8)


# ------------------------------------------------------------------------------------------------ label maps


def voc2012(name: str, folder: Path, split: str) -> BenchmarkSet:
    """Pictures of a segmentation list; names are VOC's own."""
    photos = find_folder(folder, below("VOCdevkit/VOC2012", "VOC2012", to="JPEGImages"))
    root = photos.parent
    labels = find_folder(root, ["SegmentationClass"])
    names = read_list(find_file(root, [f"ImageSets/Segmentation/{split}.txt"]))
    items = [Item(entry, photos / f"{entry}.jpg", labels / f"{entry}.png") for entry in names]
    _need_files(items)
    reader = label_reader(identity_table(len(VOC)))
    return BenchmarkSet(name, "classes", items, numbered(VOC), split, truth_reader=reader)


def coco_stuff_27(name: str, folder: Path, split: str) -> BenchmarkSet:
    """The 2175 validation pictures that PiCIE, STEGO and DiffSeg are judged on, by their list."""
    photos = find_folder(folder, [f"{split}2017", f"images/{split}2017", f"dataset/images/{split}2017"])
    maps = "stuffthingmaps_trainval2017"
    candidates = [
        f"annotations/{split}2017",
        f"{maps}/{split}2017",
        f"annotation_{split}2017",
        f"{split}2017_annotations",
    ]
    labels = find_folder(folder, [*candidates, f"dataset/annotations/{split}2017"])
    chosen = "Coco164kFull_Stuff_Coarse_7.txt"
    names = read_list(find_file(folder, [chosen, f"curated/{split}2017/{chosen}"]))
    items = [Item(entry, photos / f"{entry}.jpg", labels / f"{entry}.png") for entry in names]
    _need_files(items)
    reader = label_reader(COCO_STUFF_TABLE)
    return BenchmarkSet(name, "classes", items, numbered(COCO_STUFF_27), split, truth_reader=reader)


def cityscapes_27(name: str, folder: Path, split: str) -> BenchmarkSet:
    """Street scenes by city; names keep the city's folder."""
    photos = find_folder(folder, [f"leftImg8bit/{split}"])
    labels = find_folder(folder, [f"gtFine/{split}"])
    images = by_name(pictures(photos), photos, "_leftImg8bit")
    truths = by_name(pictures(labels), labels, "_gtFine_labelIds")
    if not images:
        raise Missing("there are no files *_leftImg8bit.png in leftImg8bit/")
    need(images, truths, "the *_gtFine_labelIds.png")
    items = [Item(f"{entry}_leftImg8bit", path, truths[entry]) for entry, path in images.items()]
    reader = label_reader(CITYSCAPES_TABLE)
    return BenchmarkSet(name, "classes", items, numbered(CITYSCAPES_27), split, truth_reader=reader)


def _need_files(items: list[Item]) -> None:
    """Raises Missing unless the listed photos and label files are there."""
    photos = {item.name: item.image for item in items if item.image.is_file()}
    need([item.name for item in items], photos, f"{items[0].image.parent.name}/*{items[0].image.suffix}")
    labels = {item.name: item.truth for item in items if item.truth.is_file()}
    need([item.name for item in items], labels, f"{items[0].truth.parent.name}/*{items[0].truth.suffix}")


# ------------------------------------------------------------------------------------- few-shot sets of LSUN …

FEW_SHOT_SIZE = 256  # pixels; the protocol brings pictures and labels to this size
FEW_SHOT_FOLDERS = {"test": "real/test", "train": "real/train", "ddpm": "ddpm"}


def few_shot(counts: dict[str, int | None]) -> Opener:
    """A set of ddpm-segmentation: square pictures with `.npy` labels beside them, the first `counts[split]`."""

    def open_few_shot(name: str, folder: Path, split: str) -> BenchmarkSet:
        path = FEW_SHOT_FOLDERS[split]
        root = find_folder(folder, [path, f"{name}/{path}", f"datasets/{name}/{path}"])
        names, table = FEW_SHOT[name]
        photos = by_name(pictures(root), root)
        chosen = dict(sorted(photos.items(), key=lambda entry: str(entry[1]))[: counts[split]])
        labels = {entry: path.with_suffix(".npy") for entry, path in chosen.items()}
        need(chosen, {entry: path for entry, path in labels.items() if path.is_file()}, f"{path}/*.npy")
        items = [Item(entry, None, labels[entry], sources=(path,)) for entry, path in chosen.items()]
        return BenchmarkSet(
            name,
            "classes",
            items,
            numbered(names),
            split,
            read_few_shot_image,
            lambda item: read_npy_labels(item, table),
        )

    return open_few_shot


def read_few_shot_image(item: Item) -> np.ndarray:
    """uint8 [256, 256, 3], resized as in the protocol (bilinear, Pillow). Raises ImageError unless square."""
    from PIL import Image

    image = raw_picture(item.sources[0], "RGB")
    if image.width != image.height:
        raise ImageError(f"{item.sources[0]}: is {image.width}x{image.height}, but the set's pictures are square")
    return np.array(image.resize((FEW_SHOT_SIZE, FEW_SHOT_SIZE), Image.Resampling.BILINEAR))


def read_npy_labels(item: Item, table: np.ndarray) -> np.ndarray:
    """int32 [256, 256] from a `.npy` of labels, any integer or float type; nearest neighbour as OpenCV takes it."""
    import cv2

    try:
        labels = np.load(item.truth, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ImageError(f"{item.truth}: is not a readable array ({one_line(error)}); download it again") from error
    if labels.ndim != 2 or (labels != labels.astype(np.uint8)).any():
        raise ImageError(f"{item.truth}: is not a label map (shape {labels.shape}, {labels.dtype}); download it again")
    labels = cv2.resize(labels.astype(np.uint8), (FEW_SHOT_SIZE, FEW_SHOT_SIZE), interpolation=cv2.INTER_NEAREST)
    return map_labels(labels, table, item.truth)


# ------------------------------------------------------------------------------------------------------ MNIST

MNIST_MARGIN = 2  # pixels of zeros on every side: 28 -> 32
MNIST_FILES = {"test": "t10k", "train": "train"}


def mnist(kind: Kind) -> Opener:
    """Digits from idx files. Kind classes: ink (>= 128) has the class of its digit; binary: ink is foreground."""

    def open_mnist(name: str, folder: Path, split: str) -> BenchmarkSet:
        prefix = MNIST_FILES[split]
        paths, arrays = [], []
        for what, dimensions in (("images", 3), ("labels", 1)):
            spellings = [f"{prefix}-{what}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
            candidates = [root + spelling for root in ("", "MNIST/raw/", "raw/") for spelling in spellings]
            paths.append(find_file(folder, candidates))
            arrays.append(read_idx(paths[-1], dimensions))
        digits, labels = arrays
        if len(digits) != len(labels) or digits.shape[1:] != (28, 28):
            raise ImageError(f"{paths[0]}: holds {digits.shape} for {len(labels)} labels; download both files again")
        items = [Item(f"{index:05d}", None, sources=(paths[0],), index=index) for index in range(len(digits))]

        def read_digit(item: Item) -> np.ndarray:
            return np.repeat(np.pad(digits[item.index], MNIST_MARGIN)[..., None], 3, axis=2)

        def read_truth(item: Item) -> np.ndarray:
            ink = np.pad(digits[item.index], MNIST_MARGIN) >= 128
            if kind == "binary":
                return ink.astype(np.float32)
            return np.where(ink, 1 + int(labels[item.index]), 0).astype(np.int32)

        classes = numbered(MNIST) if kind == "classes" else None
        return BenchmarkSet(name, kind, items, classes, split, read_digit, read_truth)

    return open_mnist


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads an idx file of unsigned bytes, plain or gzipped: 0, 0, type, dimensions, big-endian sizes, values."""
    import gzip

    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError) as error:
        raise ImageError(f"{path}: cannot be read ({one_line(error)}); download it again") from error
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise ImageError(f"{path}: is not an idx file of bytes with {dimensions} dimensions; download it again")
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    if len(content) != start + math.prod(shape):
        raise ImageError(f"{path}: holds {len(content) - start} values, not {math.prod(shape)}; download it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


# ------------------------------------------------------------------------------------------------------ BraTS

BRATS_SLICES = range(80, 129)  # of 155; the lowest 80 and the top 26 rarely show a tumour (Wolleb et al. 2022)
BRATS_CHANNELS = ("flair", "t1ce", "t2")  # shown as red, green and blue
BRATS_LABELS = (0, 1, 2, 4)


def brats(name: str, folder: Path, split: str) -> BenchmarkSet:
    """Axial slices 80 to 128 of every case; the truth is the whole tumour. Needs nibabel."""
    require(("nibabel",), "medical", name)
    inner = "MICCAI_BraTS2020_TrainingData"
    for root in (folder, folder / inner, folder / "BraTS2020_TrainingData" / inner):
        if cases := sorted({path.parent for path in root.glob("*/*_flair.nii*")}):
            break
    else:
        raise Missing("<case>/<case>_flair.nii.gz is missing")
    items = []
    for case in cases:
        stem = f"{case.name}/{case.name}"
        volumes = [find_file(root, [f"{stem}_{channel}.nii.gz", f"{stem}_{channel}.nii"]) for channel in BRATS_CHANNELS]
        # One case of the 2020 release keeps the name its segmentation had at the hospital.
        strays = [path.relative_to(root).as_posix() for path in sorted(case.glob("*_Segm.nii*"))]
        truth = find_file(root, [f"{stem}_seg.nii.gz", f"{stem}_seg.nii", *strays])
        items += [Item(f"{case.name}/{z:03d}", None, truth, sources=tuple(volumes), index=z) for z in BRATS_SLICES]

    read = lru_cache(maxsize=4)(read_volume)  # slices of a case are read in sequence, and gzip cannot seek
    levels = lru_cache(maxsize=3)(lambda path: intensity_levels(read_volume(path)))

    def read_slice(item: Item) -> np.ndarray:
        return np.stack([_axial(levels(path), item.index, path) for path in item.sources], axis=2)

    def read_tumour(item: Item) -> np.ndarray:
        labels = _axial(read(item.truth), item.index, item.truth)
        if wrong := np.setdiff1d(labels, BRATS_LABELS).tolist():
            raise ImageError(f"{item.truth}: holds label {wrong[0]}; BraTS has {BRATS_LABELS}; download it again")
        return (labels > 0).astype(np.float32)

    return BenchmarkSet(name, "binary", items, None, split, read_slice, read_tumour)


def read_volume(path: Path) -> np.ndarray:
    """A NIfTI volume, [X, Y, Z] as stored. Raises ImageError."""
    import nibabel

    try:
        return np.asanyarray(nibabel.load(path).dataobj)
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise ImageError(f"{path}: is not a readable NIfTI volume ({one_line(error)}); download it again") from error


def intensity_levels(volume: np.ndarray) -> np.ndarray:
    """uint8: the volume's intensities from its 1st to its 99th percentile as 0 to 255."""
    low, high = np.percentile(volume, (1, 99))
    scaled = (volume.astype(np.float32) - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)


def _axial(volume: np.ndarray, index: int, path: Path) -> np.ndarray:
    """Slice [Y, X]: BraTS stores x to the patient's left and y to the back, so the face is at the top."""
    if volume.ndim != 3 or volume.shape[2] <= index:
        raise ImageError(f"{path}: is {volume.shape} and has no axial slice {index}; BraTS volumes are 240x240x155")
    return volume[:, :, index].T


# --------------------------------------------------------------------------------------------------- by name

OPENERS: dict[str, Opener] = {
    "aim-500": folders("matte", {"test": below("AIM-500", to="original")}, "mask", "trimap"),
    "am-2k": folders(
        "matte",
        {"validation": below("AM-2k", to="validation/original"), "train": below("AM-2k", to="train/original")},
        "mask",
        "trimap",
    ),
    "p3m-500-np": folders(
        "matte",
        {
            "validation": [
                *below("P3M-10k", to="validation/P3M-500-NP/original_image"),
                "original_image",
                "validation2/original_image",
            ]
        },
        "mask",
        "trimap",
    ),
    "p3m-500-p": folders(
        "matte",
        {
            "validation": [
                *below("P3M-10k", to="validation/P3M-500-P/blurred_image"),
                "blurred_image",
                "validation1/blurred_image",
            ]
        },
        "mask",
        "trimap",
    ),
    "ppm-100": folders("matte", {"test": below("PPM-100", to="image")}, "matte"),
    "composition-1k": composition_1k,
    "alphamatting": alphamatting,
    "dis5k": folders("binary", {split: below("DIS5K", to=f"{split}/im") for split in SETS["dis5k"].splits}, "gt"),
    "ecssd": folders("binary", {"test": below("ECSSD", to="images")}, "ground_truth_mask"),
    "duts-te": folders("binary", {"test": below("DUTS-TE", to="DUTS-TE-Image")}, "DUTS-TE-Mask"),
    "voc2012": voc2012,
    "coco-stuff-27": coco_stuff_27,
    "cityscapes-27": cityscapes_27,
    **{name: few_shot(SETS[name].splits) for name in FEW_SHOT},
    "mnist": mnist("classes"),
    "mnist-ink": mnist("binary"),
    "brats2020": brats,
}
