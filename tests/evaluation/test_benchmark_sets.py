"""Every reader on a small look-alike in the set's own format, with the quirks that the true files have."""

import gzip
import hashlib
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdseg.evaluation.benchmark_sets import SETS, VOID, export_images, folder_pair, open_set
from sdseg.evaluation.benchmark_sets.__main__ import main
from sdseg.evaluation.benchmark_sets.class_tables import COCO_STUFF_TABLE
from sdseg.imaging import ImageError, read_image, read_label_file

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
ALPHA = np.array([[0, 51, 128, 255] * 2] * 6, np.uint8)
TRIMAP = np.array([[0, 128, 128, 255] * 2] * 6, np.uint8)


def save(path: Path, values: np.ndarray, **options) -> Path:
    """Writes a picture by extension, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def save_palette(path: Path, labels: np.ndarray) -> None:
    """Writes a palette PNG whose colours tell nothing of the indices."""
    image = Image.fromarray(labels.astype(np.uint8)).convert("P")
    image.putdata(labels.astype(np.uint8).ravel())
    image.putpalette(RNG.permutation(256 * 3).astype(np.uint8).tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    assert Image.open(path).mode == "P"


def grey(values: np.ndarray, channels: int) -> np.ndarray:
    """Grey stored in three channels, or four with opaque transparency."""
    stacked = np.repeat(values[..., None], channels, axis=2)
    if channels == 4:
        stacked[..., 3] = 255
    return stacked


def matting(photos: str, truths: str, trimaps: str | None, truth_suffix: str = ".png"):
    """Look-alike of the matting sets: photos in JPEG, alpha as grey, RGB and RGBA, stray files beside them."""

    def build(folder: Path) -> Path:
        for name, channels in (("o_0a", 1), ("o_1b", 3), ("o_2c", 4)):
            save(folder / photos / f"{name}.jpg", PHOTO)
            alpha = ALPHA if channels == 1 else grey(ALPHA, channels)
            last = save(folder / truths / f"{name}{truth_suffix}", alpha if truth_suffix == ".png" else ALPHA)
            if trimaps:
                save(folder / trimaps / f"{name}.png", TRIMAP if channels == 1 else grey(TRIMAP, channels))
        (folder / photos / "readme.txt").write_text("notes")
        (folder / photos / "._o_0a.jpg").write_bytes(b"a file manager's")
        return last

    return build


def masks(photos: str, truths: str, name: str = "0001"):
    """Look-alike of the sets with binary masks: soft edges in one mask, RGB in another, 1 bit in the third."""

    def build(folder: Path) -> Path:
        for place, mask in enumerate((ALPHA, grey(ALPHA, 3), ALPHA >= 128)):
            save(folder / photos / f"{name}_{place}.jpg", PHOTO)
            last = save(folder / truths / f"{name}_{place}.png", mask)
        return last

    return build


def alphamatting(folder: Path) -> Path:
    for size in ("lowres", "highres"):
        save(folder / f"input_training_{size}/GT01.png", PHOTO)
        for trimap, values in (("Trimap1", TRIMAP), ("Trimap2", np.full_like(TRIMAP, 128))):
            save(folder / f"trimap_training_{size}/{trimap}/GT01.png", values)
        last = save(folder / f"gt_training_{size}/GT01.png", grey(ALPHA, 3))
    return last.parent.parent / "gt_training_lowres/GT01.png"


def composition_1k(folder: Path) -> Path:
    """Two foregrounds, one with transparency in its own file, over backgrounds larger, lower and narrower."""
    layers = folder / "Test_set" / "Adobe-licensed images"
    foregrounds = {"toy.png": PHOTO, "16452523375_08591714cf_o.png": np.dstack([PHOTO[::-1], ALPHA])}
    for name, values in foregrounds.items():
        save(layers / "fg" / name, values)
        last = save(layers / "alpha" / name, ALPHA if name == "toy.png" else grey(ALPHA, 3))
        for place in range(20):
            save(layers / "trimaps" / f"{Path(name).stem}_{place}.png", TRIMAP)
    names = [f"2007_{place:06d}.jpg" for place in range(40)]
    for place, name in enumerate(names):
        shape = [(9, 11), (4, 8), (6, 5)][place % 3]
        save(folder / "VOC2012/JPEGImages" / name, RNG.integers(0, 256, (*shape, 3), dtype=np.uint8), quality=100)
    # The lists come with the line ends of another system, and one ends in a blank line.
    (folder / "Test_set/test_fg_names.txt").write_bytes("\r\n".join(foregrounds).encode())
    (folder / "Test_set/test_bg_names.txt").write_bytes("\n".join([*names, ""]).encode())
    return last


VOC_LABELS = np.array([[0, 1, 20, 255] * 2] * 6)
COCO_LABELS = np.array([[0, 90, 91, 181, 255, 72, 44, 44]] * 6)
CITY_LABELS = np.array([[0, 3, 6, 7, 8, 23, 33, 26]] * 6)


def voc2012(folder: Path) -> Path:
    root = folder / "VOCdevkit" / "VOC2012"
    for name in ("2007_000033", "2007_000042", "2007_000061"):
        save(root / "JPEGImages" / f"{name}.jpg", PHOTO)
    for name in ("2007_000033", "2007_000061"):  # most photos have no segmentation
        save_palette(root / "SegmentationClass" / f"{name}.png", VOC_LABELS)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_000033\n2007_000061\n")
    (lists / "train.txt").write_text("2007_000061\n")
    return root / "SegmentationClass" / "2007_000061.png"


def coco_stuff_27(folder: Path) -> Path:
    for name in ("000000000139", "000000000285", "000000000724"):
        save(folder / "val2017" / f"{name}.jpg", PHOTO)
        save(folder / "annotations/val2017" / f"{name}.png", COCO_LABELS.astype(np.uint8))
    (folder / "Coco164kFull_Stuff_Coarse_7.txt").write_text("000000000139\n000000000724")
    return folder / "annotations/val2017/000000000724.png"


def cityscapes_27(folder: Path) -> Path:
    for city, frame in (("frankfurt", "frankfurt_000000_000294"), ("munster", "munster_000000_000019")):
        save(folder / "leftImg8bit/val" / city / f"{frame}_leftImg8bit.png", PHOTO)
        for ending in ("color", "instanceIds", "labelTrainIds"):  # beside the labels, and not to be taken for them
            save(folder / "gtFine/val" / city / f"{frame}_gtFine_{ending}.png", PHOTO)
        last = save(folder / "gtFine/val" / city / f"{frame}_gtFine_labelIds.png", CITY_LABELS.astype(np.uint8))
        (folder / "gtFine/val" / city / f"{frame}_gtFine_polygons.json").write_text("{}")
    return last


def few_shot(name: str, values: list[int]):
    """Square pictures, JPEG and PNG, of 512 and 256 pixels, each with its `.npy` of another type beside it."""

    def build(folder: Path) -> Path:
        for place in ("real/test", "real/train", "ddpm"):
            root = folder / name / place
            for index, (size, suffix, dtype) in enumerate(((512, ".png", np.uint8), (256, ".jpg", np.int64))):
                photo = np.kron(RNG.integers(0, 256, (8, 8, 3)), np.ones((size // 8, size // 8, 1))).astype(np.uint8)
                save(root / f"img_{index}{suffix}", photo)
                labels = np.resize(values, (16, 16)).astype(dtype)
                np.save(root / f"img_{index}.npy", np.kron(labels, np.ones((size // 16, size // 16), dtype)))
        return folder / name / "real/test/img_1.npy"

    return build


DIGITS = np.zeros((3, 28, 28), np.uint8)
DIGITS[:, 5:9, 6:20] = np.array([127, 128, 255], np.uint8)[:, None, None]


def mnist(folder: Path) -> Path:
    """The test files gzipped, the training files plain and spelt as one widespread copy does."""
    folder.mkdir(parents=True, exist_ok=True)
    images = struct.pack(">4B3I", 0, 0, 8, 3, 3, 28, 28) + DIGITS.tobytes()
    labels = struct.pack(">4BI", 0, 0, 8, 1, 3) + bytes([7, 0, 9])
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    (folder / "train-images.idx3-ubyte").write_bytes(images)
    (folder / "train-labels.idx1-ubyte").write_bytes(labels)
    return folder / "t10k-labels-idx1-ubyte.gz"


def brats2020(folder: Path) -> Path:
    """Two cases of 8 x 6 x 155, one in .nii whose segmentation has the name it had at the hospital."""
    import nibabel

    for case, ending, seg in (
        ("BraTS20_Training_001", ".nii.gz", "BraTS20_Training_001_seg.nii.gz"),
        ("BraTS20_Training_355", ".nii", "W39_1998.09.19_Segm.nii"),
    ):
        (folder / case).mkdir(parents=True)
        for place, channel in enumerate(("flair", "t1ce", "t2", "t1")):
            volume = np.zeros((8, 6, 155), np.int16)
            volume[1 + place :, 2:, 70:140] = 100 * (place + 1) + np.arange(70, 140)
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / case / f"{case}_{channel}{ending}")
        labels = np.zeros((8, 6, 155), np.uint8)
        labels[3, 1:5, 100] = 1, 2, 4, 0
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / case / seg)
    (folder / "name_mapping.csv").write_text("Grade,BraTS_2020_subject_ID\n")
    return folder / "BraTS20_Training_001/BraTS20_Training_001_seg.nii.gz"


# Each writes a look-alike into a folder and returns one truth file of the default split.
LOOK_ALIKES = {
    "aim-500": matting("original", "mask", "trimap"),
    "am-2k": matting("validation/original", "validation/mask", "validation/trimap"),
    "p3m-500-np": matting(*(f"validation/P3M-500-NP/{part}" for part in ("original_image", "mask", "trimap"))),
    "p3m-500-p": matting(*(f"validation/P3M-500-P/{part}" for part in ("blurred_image", "mask", "trimap"))),
    "ppm-100": matting("image", "matte", None, ".jpg"),
    "composition-1k": composition_1k,
    "alphamatting": alphamatting,
    "dis5k": masks("DIS-VD/im", "DIS-VD/gt", "11#Furniture#17#Table#49706461457_de5227b966_o"),
    "ecssd": masks("images", "ground_truth_mask"),
    "duts-te": masks("DUTS-TE-Image", "DUTS-TE-Mask", "ILSVRC2012_test_00000003"),
    "voc2012": voc2012,
    "coco-stuff-27": coco_stuff_27,
    "cityscapes-27": cityscapes_27,
    "bedroom_28": few_shot("bedroom_28", [0, 1, 28, 5]),
    "ffhq_34": few_shot("ffhq_34", [0, 1, 33, 255]),
    "cat_15": few_shot("cat_15", [0, 14]),
    "horse_21": few_shot("horse_21", [0, 20]),
    "celeba_19": few_shot("celeba_19", [0, 18]),
    "ade_bedroom_30": few_shot("ade_bedroom_30", [0, 29]),
    "mnist": mnist,
    "mnist-ink": mnist,
    "brats2020": brats2020,
}


@pytest.fixture(params=SETS, ids=list(SETS))
def look_alike(request, tmp_path) -> tuple[str, Path, Path]:
    """(name, folder, one truth file) of every set in turn."""
    folder = tmp_path / "data"
    return request.param, folder, LOOK_ALIKES[request.param](folder)


# ---------------------------------------------------------------------------------------- what holds for all


def test_every_picture_has_a_truth_of_its_size_and_kind(look_alike):
    name, folder, _ = look_alike
    found = open_set(name, folder)
    assert (found.name, found.kind, found.split) == (name, SETS[name].kind, next(iter(SETS[name].splits)))
    assert found.items and len({item.name for item in found.items}) == len(found.items)
    for item in found.items[:4]:
        image, truth, trimap = found.read_image(item), found.read_truth(item), found.read_trimap(item)
        assert image.dtype == np.uint8 and image.shape == (*truth.shape, 3)
        assert item.name == Path(item.name).as_posix() and not item.name.endswith((".jpg", ".png"))
        if item.image is not None:
            np.testing.assert_array_equal(image, read_image(item.image))
        if found.kind == "classes":
            assert truth.dtype == np.int32 and set(np.unique(truth)) <= {VOID, *found.classes}
            assert list(found.classes) == list(range(len(found.classes)))
            assert len(set(found.classes.values())) == len(found.classes)
        else:
            assert truth.dtype == np.float32 and truth.min() >= 0 and truth.max() <= 1 and found.classes is None
        if found.kind == "binary":
            assert set(np.unique(truth)) <= {0, 1}
        if trimap is not None:
            assert trimap.dtype == np.uint8 and trimap.shape == truth.shape and set(np.unique(trimap)) <= {0, 128, 255}


def layout_shown(name: str, message: str) -> bool:
    return all("  " + line in message.splitlines() for line in SETS[name].layout.splitlines())


def test_a_wrong_folder_is_refused_with_the_layout_and_what_is_missing(look_alike, tmp_path):
    name, folder, truth = look_alike
    empty = tmp_path / "empty"
    empty.mkdir()
    for wrong, missing in ((tmp_path / "absent", "there is no such folder"), (empty, r"\S+ is missing")):
        with pytest.raises(FileNotFoundError) as caught:
            open_set(name, wrong)
        message = str(caught.value)
        first = message.splitlines()[0]
        assert first.startswith(f"{wrong}: is not laid out as {SETS[name].title}") and re.search(missing, first)
        assert layout_shown(name, message)
    truth.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        open_set(name, folder)
    first = str(caught.value).splitlines()[0]
    assert "missing" in first and (truth.stem in first or truth.parent.name in first)
    assert layout_shown(name, str(caught.value))


def test_exported_pictures_have_the_names_of_the_items(look_alike, tmp_path):
    name, folder, _ = look_alike
    found = open_set(name, folder)
    export_images(found, tmp_path / "out")
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert written == {f"{item.name}.png" for item in found.items}
    last = found.items[-1]
    np.testing.assert_array_equal(read_image(tmp_path / "out" / f"{last.name}.png"), found.read_image(last))


def test_unknown_names_and_splits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'AIM500'; did you mean 'aim-500'"):
        open_set("AIM500", tmp_path)
    with pytest.raises(ValueError, match="voc2012 has no split 'test'; choose among val, train, trainval"):
        open_set("voc2012", tmp_path, "test")


# --------------------------------------------------------------------------------------------- matting sets


@pytest.mark.parametrize("name", ["aim-500", "am-2k", "p3m-500-np", "p3m-500-p"])
def test_alpha_and_trimap_in_one_three_and_four_channels(name, tmp_path):
    LOOK_ALIKES[name](tmp_path)
    found = open_set(name, tmp_path)
    assert [item.name for item in found.items] == ["o_0a", "o_1b", "o_2c"]  # neither readme nor hidden files
    for item in found.items:
        np.testing.assert_array_equal(found.read_truth(item), ALPHA.astype(np.float32) / 255)
        np.testing.assert_array_equal(found.read_trimap(item), TRIMAP)


def test_trimaps_may_be_absent_altogether_but_not_one_by_one(tmp_path):
    LOOK_ALIKES["aim-500"](tmp_path)
    (tmp_path / "trimap/o_1b.png").unlink()
    with pytest.raises(FileNotFoundError, match="the trimap/ of o_1b is missing"):
        open_set("aim-500", tmp_path)
    shutil.rmtree(tmp_path / "trimap")
    found = open_set("aim-500", tmp_path)
    assert [found.read_trimap(item) for item in found.items] == [None] * 3


def test_trimap_levels_between_the_ends_are_all_unknown(tmp_path):
    LOOK_ALIKES["aim-500"](tmp_path)
    save(tmp_path / "trimap/o_0a.png", np.array([[0, 1, 127, 128, 200, 254, 255, 255]] * 6, np.uint8))
    found = open_set("aim-500", tmp_path)
    assert found.read_trimap(found.items[0])[0].tolist() == [0, 128, 128, 128, 128, 128, 255, 255]


def test_mattes_as_jpeg(tmp_path):
    LOOK_ALIKES["ppm-100"](tmp_path)
    found = open_set("ppm-100", tmp_path)
    assert np.abs(found.read_truth(found.items[0]) - ALPHA / 255).max() < 0.1


@pytest.mark.parametrize(
    ("name", "inner"),
    [("aim-500", "AIM-500"), ("p3m-500-np", "P3M-10k"), ("composition-1k", "Combined_Dataset"), ("duts-te", "DUTS-TE")],
)
def test_the_folder_above_does_as_well(name, inner, tmp_path):
    LOOK_ALIKES[name](tmp_path / inner)
    if name == "composition-1k":
        (tmp_path / inner / "VOC2012").rename(tmp_path / "VOC2012")
    assert open_set(name, tmp_path).items


def test_the_older_names_of_p3m_folders(tmp_path):
    matting("validation1/blurred_image", "validation1/mask", "validation1/trimap")(tmp_path)
    matting("validation2/original_image", "validation2/mask", "validation2/trimap")(tmp_path)
    assert "validation1" in str(open_set("p3m-500-p", tmp_path).items[0].image)
    assert "validation2" in str(open_set("p3m-500-np", tmp_path).items[0].image)


def test_alphamatting_takes_the_first_trimap(tmp_path):
    LOOK_ALIKES["alphamatting"](tmp_path)
    for split in ("lowres", "highres"):
        found = open_set("alphamatting", tmp_path, split)
        np.testing.assert_array_equal(found.read_trimap(found.items[0]), TRIMAP)
        assert split in str(found.items[0].image)


def literal_composite(foreground: Path, alpha: Path, background: Path) -> np.ndarray:
    """The authors' recipe, a pixel and a channel at a time in Python's own numbers."""
    fore, matte, back = Image.open(foreground), Image.open(alpha).convert("L"), Image.open(background)
    width, height = fore.size
    ratio = max(width / back.size[0], height / back.size[1])
    if ratio > 1:
        size = [int(side * ratio) + (side * ratio > int(side * ratio)) for side in back.size]
        back = back.resize(size, Image.Resampling.BICUBIC)
    out = np.zeros((height, width, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            share = matte.getpixel((x, y)) / 255
            for channel in range(3):
                value = share * fore.getpixel((x, y))[channel] + (1 - share) * back.getpixel((x, y))[channel]
                out[y, x, channel] = int(value)
    return out


def test_composites_are_those_of_the_authors(tmp_path):
    LOOK_ALIKES["composition-1k"](tmp_path)
    found = open_set("composition-1k", tmp_path)
    assert [item.name for item in found.items[:2]] == ["toy_0", "toy_1"]
    assert found.items[39].name == "16452523375_08591714cf_o_19"
    layers = tmp_path / "Test_set/Adobe-licensed images"
    for place, item in enumerate(found.items):
        foreground = "toy.png" if place < 20 else "16452523375_08591714cf_o.png"
        background = tmp_path / f"VOC2012/JPEGImages/2007_{place:06d}.jpg"
        expected = literal_composite(layers / "fg" / foreground, layers / "alpha" / foreground, background)
        np.testing.assert_array_equal(found.read_image(item), expected, err_msg=item.name)
        np.testing.assert_array_equal(found.read_truth(item), ALPHA.astype(np.float32) / 255)
        assert item.image is None and item.trimap.name == f"{item.name}.png"


def test_a_list_of_backgrounds_of_another_length_is_refused(tmp_path):
    LOOK_ALIKES["composition-1k"](tmp_path)
    (tmp_path / "Test_set/test_bg_names.txt").write_text("2007_000000.jpg\n")
    with pytest.raises(FileNotFoundError, match="lists 1 backgrounds for 2 foregrounds, not 20 each"):
        open_set("composition-1k", tmp_path)


# ------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("name", ["dis5k", "ecssd", "duts-te"])
def test_masks_are_cut_at_half(name, tmp_path):
    LOOK_ALIKES[name](tmp_path)
    found = open_set(name, tmp_path)
    assert len(found.items) == 3
    for item in found.items:
        assert found.read_truth(item)[0].tolist() == [0, 0, 1, 1] * 2


def test_names_keep_signs_and_dots(tmp_path):
    save(tmp_path / "DIS-TE3/im/2#Art#1.5#a.b.jpg", PHOTO)
    save(tmp_path / "DIS-TE3/gt/2#Art#1.5#a.b.png", ALPHA)
    assert [item.name for item in open_set("dis5k", tmp_path, "DIS-TE3").items] == ["2#Art#1.5#a.b"]


def test_two_pictures_of_one_name_are_refused(tmp_path):
    LOOK_ALIKES["ecssd"](tmp_path)
    save(tmp_path / "images/0001_1.png", PHOTO)
    with pytest.raises(ValueError, match=r"holds two pictures called 0001_1 \(0001_1.jpg, 0001_1.png\)"):
        open_set("ecssd", tmp_path)


def test_a_truth_without_its_photo_is_refused(tmp_path):
    LOOK_ALIKES["ecssd"](tmp_path)
    (tmp_path / "images/0001_1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="the images/ of 0001_1 is missing"):
        open_set("ecssd", tmp_path)


# -------------------------------------------------------------------------------------------- label maps


def first_row(found) -> list[int]:
    return found.read_truth(found.items[0])[0].tolist()


def test_voc_reads_palette_indices_and_its_lists(tmp_path):
    LOOK_ALIKES["voc2012"](tmp_path)
    found = open_set("voc2012", tmp_path)
    assert [item.name for item in found.items] == ["2007_000033", "2007_000061"]  # 000042 is in no list
    assert first_row(found) == [0, 1, 20, VOID] * 2
    assert found.classes[0] == "background" and found.classes[15] == "person" and len(found.classes) == 21
    assert len(open_set("voc2012", tmp_path, "train").items) == 1
    with pytest.raises(FileNotFoundError, match="ImageSets/Segmentation/trainval.txt is missing"):
        open_set("voc2012", tmp_path, "trainval")
    assert len(open_set("voc2012", tmp_path / "VOCdevkit/VOC2012").items) == 2


def test_coco_stuff_values_become_27_classes(tmp_path):
    LOOK_ALIKES["coco-stuff-27"](tmp_path)
    found = open_set("coco-stuff-27", tmp_path)
    assert [item.name for item in found.items] == ["000000000139", "000000000724"]
    names = [found.classes.get(label) for label in first_row(found)]
    # person, toothbrush, banner, wood, nothing, laptop, cup twice
    expected = ["person", "indoor", "textile", "solid", None, "electronic", "kitchen", "kitchen"]
    assert names == expected


def test_the_table_of_coco_stuff_is_the_published_one():
    """Compared entry by entry with STEGO's table (src/data.py) once, and pinned by its digest since."""
    values = COCO_STUFF_TABLE[:182].astype(np.uint8)
    assert hashlib.sha256(values.tobytes()).hexdigest()[:16] == "5b6c6ce82fb97a8c"
    assert COCO_STUFF_TABLE[255] == VOID and (COCO_STUFF_TABLE[182:255] < VOID).all()


@pytest.mark.parametrize(
    ("photos", "labels", "chosen"),
    [
        ("images/val2017", "annotations/val2017", "curated/val2017"),
        ("val2017", "annotation_val2017", "."),
        ("val2017", "stuffthingmaps_trainval2017/val2017", "."),
        ("dataset/images/val2017", "dataset/annotations/val2017", "."),
    ],
)
def test_the_layouts_of_coco_stuff_in_use(photos, labels, chosen, tmp_path):
    save(tmp_path / photos / "1.jpg", PHOTO)
    save_palette(tmp_path / labels / "1.png", COCO_LABELS)
    (tmp_path / chosen).mkdir(parents=True, exist_ok=True)
    (tmp_path / chosen / "Coco164kFull_Stuff_Coarse_7.txt").write_text("1\n")
    assert first_row(open_set("coco-stuff-27", tmp_path)) == [9, 4, 17, 24, VOID, 0, 5, 5]


def test_cityscapes_ids_start_at_seven(tmp_path):
    LOOK_ALIKES["cityscapes-27"](tmp_path)
    found = open_set("cityscapes-27", tmp_path)
    assert [item.name for item in found.items] == [
        "frankfurt/frankfurt_000000_000294_leftImg8bit",
        "munster/munster_000000_000019_leftImg8bit",
    ]
    assert first_row(found) == [VOID, VOID, VOID, 0, 1, 16, 26, 19]
    assert [found.classes[label] for label in (0, 16, 19, 26)] == ["road", "sky", "car", "bicycle"]


@pytest.mark.parametrize(
    ("name", "file", "value"),
    [
        ("voc2012", "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png", 21),
        ("coco-stuff-27", "annotations/val2017/000000000139.png", 182),
        ("cityscapes-27", "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png", 34),
    ],
)
def test_labels_that_a_set_does_not_have_are_refused(name, file, value, tmp_path):
    LOOK_ALIKES[name](tmp_path)
    save(tmp_path / file, np.full((6, 8), value, np.uint8))
    found = open_set(name, tmp_path)
    with pytest.raises(ImageError, match=f"{Path(file).name}: holds label {value}"):
        found.read_truth(found.items[0])


def test_a_rendering_of_labels_is_no_label_map(tmp_path):
    with pytest.raises(ImageError, match="is coloured"):
        read_label_file(save(tmp_path / "colours.png", PHOTO))
    with pytest.raises(ImageError, match="is not a picture that can be read"):
        (tmp_path / "text.png").write_text("none")
        read_label_file(tmp_path / "text.png")
    labels = np.array([[0, 26, 255]], np.uint8)
    assert read_label_file(save(tmp_path / "grey.png", labels)).tolist() == labels.tolist()
    assert read_label_file(save(tmp_path / "rgb.png", grey(labels, 3))).tolist() == labels.tolist()
    assert read_label_file(save(tmp_path / "deep.png", labels.astype(np.uint16) + 300)).tolist() == [[300, 326, 555]]


# ------------------------------------------------------------------------------------------- few-shot sets


def test_few_shot_sets_are_read_at_256_pixels(tmp_path):
    LOOK_ALIKES["ffhq_34"](tmp_path)
    found = open_set("ffhq_34", tmp_path)
    assert [item.name for item in found.items] == ["img_0", "img_1"]
    for item in found.items:  # a 512-pixel PNG and a 256-pixel JPEG, with labels 16 blocks wide
        assert found.read_image(item).shape == (256, 256, 3)
        truth = found.read_truth(item)
        assert truth.shape == (256, 256) and truth[0, ::16].tolist() == [0, 1, 33, VOID] * 4
        np.testing.assert_array_equal(truth, np.kron(truth[::16, ::16], np.ones((16, 16))))
    fine = RNG.integers(0, 34, (512, 512))  # labels of single pixels: OpenCV's nearest neighbour takes every other one
    np.save(found.items[0].truth, fine)
    np.testing.assert_array_equal(found.read_truth(found.items[0]), fine[::2, ::2])


def test_bedroom_ignores_its_background_and_starts_at_one(tmp_path):
    LOOK_ALIKES["bedroom_28"](tmp_path)
    found = open_set("bedroom_28", tmp_path / "bedroom_28")  # the category's own folder does as well
    assert found.read_truth(found.items[0])[0, ::16].tolist() == [VOID, 0, 27, 4] * 4
    assert found.classes[0] == "bed" and found.classes[27] == "things on a table"


def test_few_shot_splits_take_the_first_pictures_as_the_protocol_does(tmp_path):
    LOOK_ALIKES["cat_15"](tmp_path)
    root = tmp_path / "cat_15/real/test"
    for index in range(30):
        shutil.copy(root / "img_1.jpg", root / f"cat_{index:02d}.jpg")
        shutil.copy(root / "img_1.npy", root / f"cat_{index:02d}.npy")
    assert [item.name for item in open_set("cat_15", tmp_path).items] == [f"cat_{index:02d}" for index in range(20)]
    assert len(open_set("cat_15", tmp_path, "train").items) == 2
    assert len(open_set("cat_15", tmp_path, "ddpm").items) == 2


def test_damaged_few_shot_files_are_refused(tmp_path):
    LOOK_ALIKES["horse_21"](tmp_path)
    root = tmp_path / "horse_21/real/test"
    found = open_set("horse_21", tmp_path)
    for labels, message in (
        (np.full((16, 16), 21), "holds label 21"),
        (np.zeros((16, 16, 3)), "is not a label map"),
        (np.full((16, 16), -1), "is not a label map"),
    ):
        np.save(root / "img_0.npy", labels)
        with pytest.raises(ImageError, match=message):
            found.read_truth(found.items[0])
    (root / "img_0.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ImageError, match="is not a readable array"):
        found.read_truth(found.items[0])
    save(root / "img_0.png", PHOTO)
    with pytest.raises(ImageError, match="is 8x6, but the set's pictures are square"):
        found.read_image(found.items[0])


# --------------------------------------------------------------------------------------------------- MNIST


@pytest.mark.parametrize("split", ["test", "train"])
def test_digits_gain_a_margin_and_ink_gets_its_class(split, tmp_path):
    LOOK_ALIKES["mnist"](tmp_path)
    classes, ink = open_set("mnist", tmp_path, split), open_set("mnist-ink", tmp_path, split)
    assert [item.name for item in classes.items] == ["00000", "00001", "00002"]
    for index, (item, digit) in enumerate(zip(classes.items, (7, 0, 9), strict=True)):
        image = classes.read_image(item)
        assert image.shape == (32, 32, 3) and not image[:2].any() and not image[:, -2:].any()
        np.testing.assert_array_equal(image[2:30, 2:30, 1], DIGITS[index])
        expected = np.pad(DIGITS[index] >= 128, 2)
        np.testing.assert_array_equal(ink.read_truth(item), expected)
        np.testing.assert_array_equal(classes.read_truth(item), expected * (1 + digit))
    assert classes.classes[8] == "digit 7"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack(">4BI", 0, 0, 13, 1, 3) + bytes(12), "is not an idx file of bytes with 1 dimensions"),
        (struct.pack(">4BI", 0, 0, 8, 1, 3) + bytes(2), "holds 2 values, not 3"),
        (gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 3) + bytes(3))[:-9], "cannot be read"),
        (struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes(2), "for 2 labels"),
    ],
    ids=["floats", "short", "cut off", "fewer"],
)
def test_damaged_idx_files_are_refused(content, message, tmp_path):
    LOOK_ALIKES["mnist"](tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        open_set("mnist", tmp_path)


# --------------------------------------------------------------------------------------------------- BraTS


def test_brats_slices(tmp_path):
    LOOK_ALIKES["brats2020"](tmp_path)
    found = open_set("brats2020", tmp_path)
    assert len(found.items) == 2 * 49
    assert (found.items[0].name, found.items[48].name) == ("BraTS20_Training_001/080", "BraTS20_Training_001/128")
    assert found.items[49].truth.name == "W39_1998.09.19_Segm.nii"
    for case in (0, 49):
        item = found.items[case + 20]  # slice 100
        truth, image = found.read_truth(item), found.read_image(item)
        assert truth.shape == (6, 8) and np.argwhere(truth).tolist() == [[1, 3], [2, 3], [3, 3]]  # rows are y
        assert not found.read_truth(found.items[case + 21]).any()
        for place in range(3):  # flair, t1ce, t2
            volume = np.zeros((8, 6, 155))
            volume[1 + place :, 2:, 70:140] = 100 * (place + 1) + np.arange(70, 140)
            low, high = np.percentile(volume, [1, 99])
            expected = np.round(np.clip((volume[:, :, 100] - low) / (high - low), 0, 1) * 255).T
            np.testing.assert_array_equal(image[..., place], expected)


def test_brats_below_the_folder_of_the_release(tmp_path):
    LOOK_ALIKES["brats2020"](tmp_path / "MICCAI_BraTS2020_TrainingData")
    assert len(open_set("brats2020", tmp_path).items) == 98


def test_damaged_volumes_are_refused(tmp_path):
    import nibabel

    truth = LOOK_ALIKES["brats2020"](tmp_path)
    found = open_set("brats2020", tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.full((8, 6, 155), 3, np.uint8), np.eye(4)), truth)
    with pytest.raises(ImageError, match="holds label 3"):
        found.read_truth(found.items[0])
    found = open_set("brats2020", tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 6, 20), np.uint8), np.eye(4)), truth)
    with pytest.raises(ImageError, match="has no axial slice 80"):
        found.read_truth(found.items[0])
    truth.write_bytes(b"no volume")
    with pytest.raises(ImageError, match="is not a readable NIfTI volume"):
        open_set("brats2020", tmp_path).read_truth(found.items[0])


def test_brats_without_nibabel_says_what_to_install(tmp_path, monkeypatch):
    LOOK_ALIKES["brats2020"](tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sdseg\[medical\]'"):
        open_set("brats2020", tmp_path)


# -------------------------------------------------------------------------------------------- folder pairs


def test_a_pair_of_folders_of_each_kind(tmp_path):
    for name in ("a", "sub/b"):
        save(tmp_path / "images" / f"{name}.jpg", PHOTO)
        save(tmp_path / "truths" / f"{name}.png", ALPHA)
        save(tmp_path / "trimaps" / f"{name}.png", TRIMAP)
    matte = folder_pair(tmp_path / "images", tmp_path / "truths", trimaps=tmp_path / "trimaps")
    assert [item.name for item in matte.items] == ["a", "sub/b"] and matte.kind == "matte"
    np.testing.assert_array_equal(matte.read_truth(matte.items[1]), ALPHA.astype(np.float32) / 255)
    np.testing.assert_array_equal(matte.read_trimap(matte.items[1]), TRIMAP)
    binary = folder_pair(tmp_path / "images", tmp_path / "truths", "binary")
    assert first_row(binary) == [0, 0, 1, 1] * 2 and binary.read_trimap(binary.items[0]) is None
    save_palette(tmp_path / "truths/a.png", VOC_LABELS)
    classes = folder_pair(tmp_path / "images", tmp_path / "truths", "classes")
    assert first_row(classes) == [0, 1, 20, VOID] * 2 and classes.classes is None


def test_photos_and_masks_in_one_folder(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / f"{name}.jpg", PHOTO)
        save(tmp_path / f"{name}.png", ALPHA)
    found = folder_pair(tmp_path, tmp_path)
    assert [(item.image.name, item.truth.name) for item in found.items] == [("a.jpg", "a.png"), ("b.jpg", "b.png")]
    (tmp_path / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match="of b is missing"):
        folder_pair(tmp_path, tmp_path)


def test_wrong_folder_pairs_are_refused(tmp_path):
    save(tmp_path / "images/a.jpg", PHOTO)
    (tmp_path / "truths").mkdir()
    for arguments, error, message in (
        ((tmp_path / "images", tmp_path / "absent"), FileNotFoundError, "absent: no such folder"),
        ((tmp_path / "images", tmp_path / "truths"), FileNotFoundError, "every picture in truths/ is missing"),
        ((tmp_path / "images", tmp_path / "images", "alpha"), ValueError, "unknown kind 'alpha'; choose among matte"),
        ((tmp_path / "images", tmp_path / "images"), FileNotFoundError, "not JPEG photos and PNG truths"),
    ):
        with pytest.raises(error, match=message) as caught:
            folder_pair(*arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real pictures are not here")
def test_real_pictures_with_trimaps():
    names = {path.stem for path in (SHARED / "matting/trimap").iterdir()}
    found = folder_pair(SHARED / "matting/image", SHARED / "matting/alpha")
    item = next(item for item in found.items if item.name in names)
    assert found.read_image(item).shape[:2] == found.read_truth(item).shape


# ---------------------------------------------------------------------------------------------- commands


def test_commands_in_a_process_of_their_own(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "sdseg.evaluation.benchmark_sets", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    LOOK_ALIKES["voc2012"](tmp_path)
    exported = run("export", "voc2012", tmp_path, "--output", tmp_path / "out")
    assert exported.returncode == 0, exported.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["2007_000033.png", "2007_000061.png"]
    wrong = run("check", "aim-500", tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith(f"error: {tmp_path}: is not laid out as AIM-500")
    assert "original/ is missing" in wrong.stderr and layout_shown("aim-500", wrong.stderr) and not wrong.stdout
    assert "Traceback" not in wrong.stderr


def test_list_and_show(capsys):
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SETS)
    for name, description in SETS.items():
        assert main(["show", name]) == 0
        shown = capsys.readouterr().out
        assert description.licence in shown and description.how_to_get in shown and layout_shown(name, shown)
    assert main(["show", "cityscapes"]) == 2
    assert capsys.readouterr().err == "error: unknown data set 'cityscapes'; did you mean 'cityscapes-27'?\n"


def test_check_reads_every_file(tmp_path, capsys):
    LOOK_ALIKES["voc2012"](tmp_path / "voc")
    assert main(["check", "voc2012", str(tmp_path / "voc")]) == 1  # sound, and not whole
    captured = capsys.readouterr()
    assert captured.out == "voc2012: 2 pictures, 8x6, 3 of 21 classes occur, no trimaps\n"
    assert "note: the published split val has 1449 pictures" in captured.err
    alphamatting = LOOK_ALIKES["alphamatting"](tmp_path / "am")
    for number in range(2, 28):
        for part in ("input_training_lowres", "trimap_training_lowres/Trimap1", "gt_training_lowres"):
            shutil.copy(tmp_path / "am" / part / "GT01.png", tmp_path / "am" / part / f"GT{number:02d}.png")
    assert main(["check", "alphamatting", str(tmp_path / "am")]) == 0
    assert capsys.readouterr().out == "alphamatting: 27 pictures, 8x6, 27 trimaps\n"
    save(alphamatting.with_name("GT27.png"), ALPHA[:-1])
    assert main(["check", "alphamatting", str(tmp_path / "am")]) == 2
    assert "error: GT27: the truth is 8x5, the picture 8x6" in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom sdseg.evaluation.benchmark_sets.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "found = {'torch', 'cv2', 'scipy', 'nibabel', 'PIL', 'tqdm'} & set(sys.modules)\nassert not found, found\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_documentation_has_every_set_as_the_code_describes_it():
    text = (ROOT / "docs" / "benchmark_sets.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert list(rows) == list(SETS)
    for name, description in SETS.items():
        assert description.layout.strip() in text, name
        for part in (description.kind, description.licence, description.how_to_get, description.citation):
            assert part in rows[name], (name, part)
