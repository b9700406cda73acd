"""Which picture is paired with which matte, in every layout that other tools write, and what is said of the rest.

A pair's image is grey of level n and its matte n / 255 throughout, so that `levels` tells who was paired with whom.
"""

import csv
import io
import json
import re
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sdseg.data import Augmentation, Columns, DataError, MixedSource, PairError, open_pictures, readable
from sdseg.data import pairs as pairs_module
from sdseg.data.augmentation import draw_generator, fit_pair, latent_valid
from sdseg.training.doctor import examine

PLAIN = Augmentation(random_flip=False, min_crop_scale=1)


def encoded(level: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), level).save(buffer, kind, **({"quality": 100} if kind == "JPEG" else {}))
    return buffer.getvalue()


def put(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF"}[path.suffix.lower()]
    path.write_bytes(encoded(level, kind))
    return path


def opened(place, **kwargs):
    return open_pictures(str(place), 8, PLAIN, **kwargs)


def levels(source) -> dict[str, tuple[int, int]]:
    """Levels of image and matte by name."""
    found = {}
    for index in range(len(source)):
        image, alpha = source.read(index)
        found[source.name(index)] = int(image[0, 0, 0]), round(float(alpha[0, 0]) * 255)
    return found


def well_paired(source, count: int) -> bool:
    found = levels(source).values()
    return len(found) == count == len(set(found)) and all(image == matte for image, matte in found)


def faults(source) -> list[str]:
    return [finding.text for finding in examine(source) if finding.is_error]


def warnings(source) -> str:
    findings = [finding for finding in examine(source) if "mattes" not in finding.text or "used" in finding.text]
    assert not any(finding.is_error for finding in findings)
    return " | ".join(finding.text for finding in findings)


# ---------------------------------------------------------------------------------------------- by relative path


def test_a_picture_takes_the_matte_at_its_own_path(tmp_path):
    for level, name in enumerate(("000", "cats/000", "dogs/000", "dogs/deep/001"), start=1):
        put(tmp_path / "images" / f"{name}.png", level)
        put(tmp_path / "alpha" / f"{name}.png", level)
    assert well_paired(opened(tmp_path), 4)


def test_any_suffix_will_do_and_names_may_come_from_a_mac(tmp_path):
    names = ["a.JPG", "b.tif", "c.png", "d.jpg", unicodedata.normalize("NFD", "\u00fcber.jpg")]
    mattes = ["a.png", "b.PNG", "c.TIF", "d.jpg.png", unicodedata.normalize("NFC", "\u00fcber.png")]
    for level, (name, matte) in enumerate(zip(names, mattes, strict=True), start=1):
        put(tmp_path / "images" / name, level)
        put(tmp_path / "alpha" / matte, level)
    assert well_paired(opened(tmp_path), 5)


def test_mattes_that_all_lie_in_one_folder_serve_pictures_in_sub_folders(tmp_path):
    for level, name in enumerate(("cats/000", "dogs/001"), start=1):
        put(tmp_path / "images" / f"{name}.jpg", level)
        put(tmp_path / "alpha" / f"{Path(name).name}.png", level)
    assert well_paired(opened(tmp_path), 2)
    put(tmp_path / "images/birds/001.jpg", 3)
    refused = faults(opened(tmp_path))
    assert len(refused) == 2  # both of them
    assert all("birds/001.jpg and images/dogs/001.jpg would both take " in fault for fault in refused)


def test_a_matte_of_another_folder_does_not_step_in(tmp_path):
    put(tmp_path / "images/cats/000.jpg", 1)
    put(tmp_path / "images/cats/001.jpg", 2)
    put(tmp_path / "alpha/cats/001.png", 2)
    put(tmp_path / "alpha/000.png", 9)  # of a picture that is gone
    source = opened(tmp_path)
    with pytest.raises(PairError, match=r"alpha of images/cats/000.jpg is missing: no file .*alpha/cats/000.png"):
        source.read(0)
    texts = [str(finding) for finding in examine(source)]
    assert sum(text.startswith("error: ") for text in texts) == 1
    assert any("without a picture, not used: 1, the first is" in text and "alpha/000.png" in text for text in texts)


@pytest.mark.parametrize(
    ("images", "mattes", "message"),
    [
        (["a.jpg"], ["a.png", "a.tif"], r"images/a.jpg has two mattes, .*a.png and .*a.tif; remove one"),
        (["a.jpg", "a.png"], ["a.png"], r"images/a.jpg and images/a.png would both take .*alpha/a.png"),
    ],
)
def test_what_could_be_paired_in_two_ways_is_refused(tmp_path, images, mattes, message):
    for folder, names in (("images", images), ("alpha", mattes)):
        for name in names:
            put(tmp_path / folder / name, 1)
    refused = faults(opened(tmp_path))
    assert len(refused) == len(images) and all(re.search(message, fault) for fault in refused)


def test_what_is_passed_over_is_said(tmp_path):
    for folder in ("images", "alpha"):
        put(tmp_path / folder / "000.png", 1)
    assert warnings(opened(tmp_path)) == ""
    (tmp_path / "images/._000.png").write_bytes(b"\0\5\26\7rest")
    (tmp_path / "images/again").symlink_to(tmp_path / "images", target_is_directory=True)
    put(tmp_path / "elsewhere/001.png", 2)
    (tmp_path / "images/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    put(tmp_path / "alpha/linked/001.png", 2)
    for name in ("001.cr2", "002.cr2", "003.psd"):
        (tmp_path / "images" / name).write_bytes(b"raw")
    source = opened(tmp_path)
    assert well_paired(source, 2)
    assert warnings(source) == "not read in images/: 2 .cr2, 1 .psd, 1 folder met again through a link"


# ---------------------------------------------------------------------------------------------- by metadata


def rows_of(folder: Path, count: int = 3, spelled=lambda name: name) -> list[dict]:
    """Pairs with a comma in their names, and the rows that list them."""
    rows = []
    for level in range(1, count + 1):
        put(folder / "pictures" / f"no, {level}.jpg", level)
        put(folder / "mattes" / f"m{level}.png", level)
        rows.append(
            {"file_name": spelled(f"pictures/no, {level}.jpg"), "alpha_file_name": spelled(f"mattes/m{level}.png")}
        )
    return rows


def write_csv(path: Path, rows: list[dict], newline: str = "\n") -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator=newline)
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def jsonl_from_windows(folder):
    text = "\r\n".join(json.dumps(row) for row in rows_of(folder, spelled=lambda name: name.replace("/", "\\")))
    (folder / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + f"\r\n{text}\r\n \r\n\r\n".encode())


def csv_from_windows(folder):
    write_csv(folder / "metadata.csv", rows_of(folder), "\r\n")
    text = (folder / "metadata.csv").read_bytes()
    (folder / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + text + b"\r\n\r\n")


def parquet_metadata(folder):
    pq.write_table(pa.Table.from_pylist(rows_of(folder)), folder / "metadata.parquet")


def another_case(folder):
    write_jsonl(folder / "metadata.jsonl", rows_of(folder, spelled=str.upper))


def another_unicode_form(folder):
    rows = rows_of(folder)
    for name, row in zip(("pictures", "mattes", "\u00fc"), rows, strict=True):
        file = folder / row["alpha_file_name"]
        row["alpha_file_name"] = unicodedata.normalize("NFC", f"m\u00fcttes/{name}\u00fc.png")
        target = folder / unicodedata.normalize("NFD", row["alpha_file_name"])
        target.parent.mkdir(exist_ok=True)
        file.rename(target)
    write_jsonl(folder / "metadata.jsonl", rows)


def image_file_name(folder):
    rows = [{"image_file_name": row["file_name"], "alpha_file_name": row["alpha_file_name"]} for row in rows_of(folder)]
    write_jsonl(folder / "metadata.jsonl", rows)


def in_a_sub_folder(folder):
    rows = rows_of(folder / "part")
    write_jsonl(folder / "part/metadata.jsonl", rows)


def beside_the_pictures(folder):
    rows = [{key: f"../{name}" for key, name in row.items()} for row in rows_of(folder)]
    write_jsonl(folder / "pictures/metadata.jsonl", rows)


def in_a_folder_for_each_split(folder):
    for split in ("train", "test"):
        rows = rows_of(folder / split)
        write_csv(folder / split / "metadata.csv", rows if split == "train" else rows[:1])


@pytest.mark.parametrize(
    "layout",
    [
        jsonl_from_windows, csv_from_windows, parquet_metadata, another_case, another_unicode_form, image_file_name,
        in_a_sub_folder, beside_the_pictures, in_a_folder_for_each_split,
    ],
    ids=lambda layout: layout.__name__,
)  # fmt: skip
def test_metadata_are_read_as_other_programs_write_them(tmp_path, layout):
    layout(tmp_path)
    source = opened(tmp_path)
    assert well_paired(source, 3)
    assert warnings(source) == ""
    if layout is in_a_folder_for_each_split:
        assert len(opened(tmp_path, columns=Columns(split="test"))) == 1
        with pytest.raises(DataError, match="no metadata file whose name or folder begins with validation"):
            opened(tmp_path, columns=Columns(split="validation"))


def test_columns_and_pictures_that_are_not_used_are_said_once(tmp_path):
    rows = [row | {"caption": "a, b", "seed": 3, "factors": "{}", "source": "x"} for row in rows_of(tmp_path)]
    write_jsonl(tmp_path / "metadata.jsonl", [*rows, rows[1]])
    put(tmp_path / "pictures/other.jpg", 9)
    source = opened(tmp_path)
    assert well_paired(source, 3)
    said = warnings(source)
    assert "columns that are not used: caption, source | " in said
    assert "not used: 1, the first is" in said and "other.jpg" in said
    assert "rows that are there twice, used once: 1, the first is pictures/no, 2.jpg" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [{"file_name": row["file_name"]} for row in rows], "no alpha_file_name .it has file_name.; add"),
        (lambda rows: [], "has no file_name"),
        (lambda rows: [[1, 2]], "line 1: every line is a JSON object"),
    ],
)
def test_metadata_that_say_two_things_or_nothing_are_refused(tmp_path, change, message):
    write_jsonl(tmp_path / "metadata.jsonl", change(rows_of(tmp_path)))
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_damaged_metadata_are_named_with_their_line(tmp_path):
    rows = rows_of(tmp_path)
    write_jsonl(tmp_path / "metadata.jsonl", rows)
    with open(tmp_path / "metadata.jsonl", "a") as file:
        file.write('{"file_name": ')
    with pytest.raises(DataError, match=r"metadata.jsonl line 4: is not JSON"):
        opened(tmp_path)
    write_csv(tmp_path / "metadata.csv", rows)
    with pytest.raises(DataError, match=r"metadata.csv and .*metadata.jsonl lie in one folder.*; keep one"):
        opened(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    with open(tmp_path / "metadata.csv", "a") as file:
        file.write("a.jpg,b.png,c\n")
    with pytest.raises(DataError, match=r"metadata.csv line 5: has more fields"):
        opened(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(b"file_name,alpha_file_name\n\xfc.jpg,b.png\n")
    with pytest.raises(DataError, match=r"metadata.csv cannot be read .*UTF-8"):
        opened(tmp_path)


def test_every_row_that_is_no_pair_is_found(tmp_path):
    rows = rows_of(tmp_path, 4)
    rows[1]["alpha_file_name"] = None
    rows[2]["alpha_file_name"] = "mattes/none.png"
    rows.append(rows[3] | {"alpha_file_name": "mattes/m1.png"})
    rows.append(rows[0] | {"file_name": "a" * 5000})
    write_jsonl(tmp_path / "metadata.jsonl", rows)
    errors = faults(opened(tmp_path))
    assert len(errors) == 4 and "row 2 has no alpha_file_name" in errors[0] and "none.png" in errors[1]
    assert "row 5: pictures/no, 4.jpg has two mattes, " in errors[2] and "aaa is missing" in errors[3]


# ---------------------------------------------------------------------------------------------- tar, parquet


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def members_of(*levels: int, kind: str = "image") -> dict[str, bytes]:
    return {f"{level:03d}.{kind}.png": encoded(level) for level in levels}


def test_a_tar_file_made_on_a_mac_or_in_any_order_is_read(tmp_path):
    apple = b"\0\5\26\7rest"
    write_tar(
        tmp_path / "train-0.tar",
        {
            "./._001.image.png": apple, "./.DS_Store": apple, "__MACOSX/._001.alpha.png": apple,
            "./PaxHeader/001.image.png": apple,
        }
        | {f"./{name}": content for name, content in members_of(1, 2, 3).items()}
        | {f"./._{name}": apple for name in members_of(1, 2, kind="alpha")}
        | {f"./{name}": content for name, content in members_of(3, 1, 2, kind="alpha").items()},
    )  # fmt: skip
    write_tar(tmp_path / "train-1.tar", {"v1.0/4.IMAGE.JPG": encoded(4, "JPEG"), "v1.0/4.alpha.PNG": encoded(4)})
    write_tar(tmp_path / "train-2.tar", {})
    (tmp_path / "._train-0.tar").write_bytes(apple)
    source = opened(tmp_path)
    assert well_paired(source, 4) and list(levels(source))[3] == "train-1.tar: v1.0/4"
    assert warnings(source) == "tar files without samples: 1, the first is train-2.tar"


def test_the_folder_of_a_tar_file_may_name_its_split(tmp_path):
    for split, level in (("train", 1), ("test", 2)):
        write_tar(tmp_path / split / "0.tar", members_of(level) | members_of(level, kind="alpha"))
    assert levels(opened(tmp_path)) == {"0.tar: 001": (1, 1)}
    assert levels(opened(tmp_path, columns=Columns(split="test"))) == {"0.tar: 002": (2, 2)}


def test_tar_files_that_cannot_be_read_are_refused(tmp_path):
    twice = write_tar(tmp_path / "twice/a.tar", members_of(1) | members_of(1, kind="alpha"))
    with tarfile.open(twice, "a") as tar:
        member = tarfile.TarInfo("001.image.PNG")
        tar.addfile(member)
    with pytest.raises(DataError, match=r"a.tar holds 001.image.PNG twice .the other is 001.image.png"):
        opened(tmp_path / "twice")
    for name in ("packed/a.tar.gz", "packed2/b.tgz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"\x1f\x8b")
        with pytest.raises(DataError, match="is compressed, .*; uncompress it"):
            opened((tmp_path / name).parent)
    for content in (b"", b"\0" * 10240):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "empty/a.tar").write_bytes(content)
        with pytest.raises(DataError, match="export"):
            opened(tmp_path / "empty")
    several = write_tar(tmp_path / "several/a.tar", members_of(1) | {"001.alpha.png": b"x", "001.alpha.tif": b"y"})
    with pytest.raises(DataError, match="several columns 'alpha': alpha.png, alpha.tif; set alpha_column"):
        opened(several.parent)


def test_a_sample_that_lacks_its_matte_is_one_pairs_error(tmp_path):
    write_tar(tmp_path / "train.tar", members_of(1, 2, 3) | members_of(1, 3, kind="alpha") | {"001.txt": b"x"})
    source = opened(tmp_path)
    findings = list(examine(source))
    (error,) = [finding for finding in findings if finding.is_error]
    assert "sample 002 has no column 'alpha'" in error.text and error.pair == 1
    assert any(finding.text == "columns that are not used: txt" for finding in findings)
    assert levels(readable(source, {source: {1}})) == {"train.tar: 001": (1, 1), "train.tar: 003": (3, 3)}


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_files_may_differ_in_what_is_not_used(tmp_path, monkeypatch, streaming):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "tables"
    place.mkdir()

    def write(name: str, *columns: str, level: int = 1) -> None:
        cell = {"bytes": encoded(level), "path": None}
        values = {"image": cell, "alpha": cell, "other": 3, "caption": "a"}
        pq.write_table(pa.Table.from_pylist([{column: values[column] for column in columns}]), place / name)

    write("train-0.parquet", "image", "alpha", "caption")
    write("train-1.parquet", "other", "alpha", "image", level=2)
    source = opened(place, streaming=streaming)
    assert well_paired(source, 2)
    assert "columns that are not used: caption, other" in warnings(source)
    assert [source.name(index) for index in (0, 1)] == ["train-0.parquet: row 0", "train-1.parquet: row 0"]
    write("train-2.parquet", "image", "other")
    with pytest.raises(DataError, match=r"train-2.parquet has no column 'alpha', which .*train-0.parquet has"):
        opened(place, streaming=streaming)
    write("train-2.parquet", "image", "alpha")
    whole = (place / "train-2.parquet").read_bytes()
    (place / "train-2.parquet").write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"train-2.parquet cannot be read .*copy or export it again"):
        opened(place, streaming=streaming)


# ---------------------------------------------------------------------------------------------- one item


class Odd(Exception):
    """What nobody foresaw."""


@pytest.mark.parametrize(
    "raised", [OSError(5, "Input/output error"), ValueError("a\nb"), KeyError("x"), Odd(), MemoryError()]
)
def test_whatever_one_pair_raises_is_that_pairs_error(tmp_path, monkeypatch, raised):
    rows = rows_of(tmp_path)
    write_jsonl(tmp_path / "metadata.jsonl", rows)
    read = pairs_module.read_image

    def failing(path):
        if path.name == "no, 2.jpg":
            raise raised
        return read(path)

    monkeypatch.setattr(pairs_module, "read_image", failing)
    findings = [finding for finding in examine(opened(tmp_path)) if finding.is_error]
    assert [finding.pair for finding in findings] == [1]
    assert "pictures/no, 2.jpg" in findings[0].text and "\n" not in findings[0].text


def test_without_what_cannot_be_read_an_epoch_keeps_its_order(tmp_path):
    for name in ("one", "two"):
        write_jsonl((tmp_path / name).joinpath("metadata.jsonl"), rows_of(tmp_path / name, 5))
    source = opened(tmp_path / "one")
    rest = readable(source, {source: {1, 4}})
    assert len(rest) == 3 and readable(source, {}) is source
    before = [source.name(index) for index in source.order(0, 3).tolist() if index not in (1, 4)]
    assert [rest.name(index) for index in rest.order(0, 3).tolist()] == before
    assert rest.digest() != source.digest() and rest.digest() == readable(source, {source: [4, 1]}).digest()
    mixed = open_pictures([str(tmp_path / name) for name in ("one", "two")], 8, PLAIN)
    assert isinstance(mixed, MixedSource)
    rest = readable(mixed, {mixed.sources[1]: {0}})
    assert sorted(rest.order(0, 0).tolist()) == list(range(9)) and "no, 2.jpg" in rest.name(5)
    with pytest.raises(DataError, match="none of 5 pairs can be read"):
        readable(source, {source: range(5)})


# ---------------------------------------------------------------------------------------------- thin pictures


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (20, 2000), (3, 64)])
def test_a_thin_picture_fills_one_latent_cell(size):
    image = np.full((*size, 3), 80, np.uint8)
    fitted = fit_pair(image, np.full(size, 0.5, np.float32), 64, Augmentation(True, 0.5), draw_generator(0))
    valid = latent_valid(fitted["valid"][None], 8)
    assert valid.sum() == 8 and torch.all(fitted["alpha"] == 0.5) and fitted["valid"].sum() == 8 * 64
