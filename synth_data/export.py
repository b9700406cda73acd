"""Exports a rendered set as parquet or webdataset files, for the Hugging Face Hub and for streaming."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from synth_data.errors import MissingFile, RenderError, UserError, first_line
from synth_data.store import BAD_LINE, JOURNAL, attributions, files_of, meta_of, read_rows, read_settings

FORMATS = {"parquet": "parquet", "webdataset": "tar"}  # name -> suffix
BESIDE = ("recipe.yaml", "render.json", "classes.json")  # needed to render the set again
CARD = """\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: train-*.{suffix}
---
{samples} rendered samples of {size} px with exact alpha, made by `sdseg render` from `recipe.yaml`;
`render.json` holds seed, size and variant, and each sample's column `factors` (JSON) everything that was drawn for it.
Columns: {columns}.
"""
MADE_FROM = "\nThe photos, environments and meshes in the pictures are from:\n\n{lines}\n"


def columns_of(row: dict[str, Any]) -> dict[str, str]:
    """Column -> file of a metadata row: image, alpha, mask ..., or foreground and background."""
    first = "foreground" if row["file_name"].endswith(".exr") else "image"
    return {
        first if key == "file_name" else key.removesuffix("_file_name"): name for key, name in files_of(row).items()
    }


def _parquet(path: Path, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes samples as one parquet file; pictures keep their bytes, foregrounds (OpenEXR) are a binary column."""
    import datasets

    columns: dict[str, list[Any]] = {}
    features: dict[str, Any] = {}
    for row in rows:
        for column, name in columns_of(row).items():
            content = (folder / name).read_bytes()
            picture = name.endswith(".png")
            features[column] = datasets.Image() if picture else datasets.Value("binary")
            columns.setdefault(column, []).append({"bytes": content, "path": Path(name).name} if picture else content)
        for column, value in meta_of(row).items():
            features[column] = datasets.Value("int64" if isinstance(value, int) else "string")
            columns.setdefault(column, []).append(value)
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)


def _webdataset(path: Path, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes samples as one tar file: 000137.image.png, 000137.alpha.png, ..., 000137.json."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            members = {
                f"{column}{Path(name).suffix}": (folder / name).read_bytes() for column, name in columns_of(row).items()
            }
            members["json"] = json.dumps(meta_of(row), ensure_ascii=False).encode()
            for name, content in members.items():
                member = tarfile.TarInfo(f"{row['index']:06d}.{name}")  # constant time, owner and mode
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def export(folder: Path, form: str, output: Path, samples_per_file: int = 1000) -> list[Path]:
    """Writes the set in `folder` as files train-00000-of-00004.parquet (or .tar) into `output`; returns them.

    Pictures keep their bytes; the recipe, the settings and a data-set card (with which `datasets.load_dataset` finds
    the files) are written beside them. The output is complete or absent.

    Args:
        form: parquet or webdataset.

    Raises:
        UserError: the set is unfinished or damaged, or `output` is in use; MissingFile if a file is missing.
        RenderError: `output` cannot be written.
    """
    if form not in FORMATS:
        raise UserError(f"--format: unknown format '{form}'; known: {', '.join(FORMATS)}")
    settings = read_settings(folder)
    if (folder / JOURNAL).exists():
        raise UserError(f"'{folder}' is not finished; run its render command again first")
    rows = []
    for place, row in read_rows(folder):
        if row is None:
            raise UserError(f"{place}: {BAD_LINE}")
        for name in files_of(row).values():
            if not (folder / name).is_file():
                raise MissingFile(f"{folder / name}: missing; run the render command again")
        rows.append(row)
    if not rows:
        raise UserError(f"'{folder}' holds no samples; there is nothing to export")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output '{output}' exists; give a new or empty folder")

    chunks = [rows[k : k + samples_per_file] for k in range(0, len(rows), samples_per_file)]
    suffix = FORMATS[form]
    names = [f"train-{k:05d}-of-{len(chunks):05d}.{suffix}" for k in range(len(chunks))]
    card = CARD.format(
        suffix=suffix,
        samples=len(rows),
        size=settings["size"],
        columns=", ".join([*columns_of(rows[0]), *meta_of(rows[0])]),
    )
    if lines := attributions(folder):
        card += MADE_FROM.format(lines="\n".join(lines))
    making = output.absolute().with_name(f".{output.absolute().name}.{os.getpid()}.part")
    try:
        making.mkdir(parents=True)
        for name, chunk in zip(names, chunks, strict=True):
            (_parquet if form == "parquet" else _webdataset)(making / name, folder, chunk)
        for name in BESIDE:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, making / name)
        (making / "README.md").write_text(card, encoding="utf-8")
        os.replace(making, output)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise RenderError(
            f"--output '{output}': cannot be written ({reason}); nothing was left there, make room or give another "
            "folder"
        ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return [output / name for name in names]


def check_hub(name: str, private: bool) -> None:
    """Creates the data set `name` (OWNER/NAME) on the Hub if it is not there.

    The token comes from HF_TOKEN or from `hf auth login`. UserError for a malformed name, RenderError if the Hub
    refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    if name.count("/") != 1:
        raise UserError(f"--push_to_hub: '{name}' is not the name of a data set; give OWNER/NAME")
    try:
        HfApi().create_repo(name, repo_type="dataset", private=private, exist_ok=True)
    except HFValidationError as error:
        raise UserError(f"--push_to_hub: '{name}' is not the name of a data set; give OWNER/NAME") from error
    except Exception as error:  # whatever the network or the Hub raises
        raise RenderError(
            f"--push_to_hub '{name}': the Hub cannot be used ({first_line(error)}); log in with `hf auth login` or "
            "set HF_TOKEN, or leave --push_to_hub out"
        ) from error


def push(output: Path, name: str) -> str:
    """Uploads an exported folder to the data set `name` on the Hub; returns its address. RenderError if that fails."""
    from huggingface_hub import HfApi

    try:
        HfApi().upload_folder(repo_id=name, folder_path=output, repo_type="dataset", commit_message="Rendered set")
    except Exception as error:  # whatever the network or the Hub raises
        raise RenderError(
            f"--push_to_hub '{name}': the upload failed ({first_line(error)}); the export in '{output}' is complete, "
            f"upload it with `hf upload-large-folder {name} {output} --repo-type dataset`"
        ) from error
    return f"https://huggingface.co/datasets/{name}"
