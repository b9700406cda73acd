"""The adapter folder: `save_adapter` and `load_adapter`, side by side.

adapter_config.json, adapter_model.safetensors   PEFT's format, LoRA keys only
sdseg_config.json                                `AdapterConfig`
scheduler/                                       the whole inference scheduler
prompt_embedding.safetensors                     the empty prompt, so that no text encoder is needed
README.md, pictures/                             the model card
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg.errors import MissingFile, UserError, one_line
from sdseg.uncertainty import SCALES_LINE, scales_line

if TYPE_CHECKING:
    import torch
    from diffusers import DDIMScheduler
    from peft import PeftModel

    from sdseg.model import Base

FORMAT_VERSION = (
    2  # 2 since there are class maps, which a reader of 1 would take for mattes; others are still written as 1
)


class AdapterError(UserError):
    """An adapter that is missing, damaged, or belongs to another base."""


@dataclass(frozen=True)
class AdapterConfig:
    """What inference must know beside the weights; `sdseg_config.json`."""

    pretrained_model_name_or_path: str
    revision: str | None
    fingerprint: dict[str, list[float]]  # of the base, see `sdseg.model.fingerprint`
    resolution: int  # pixels along the longer side that the adapter was trained for
    num_inference_steps: int  # default of inference
    calibration: dict[str, float] = field(default_factory=dict)  # "STEPSxSAMPLES" -> factor on the std
    target: str = "alpha"  # what is drawn: alpha, mask or classes
    class_names: list[str] = field(default_factory=list)  # of target classes, by id
    class_colours: list[list[int]] = field(default_factory=list)  # likewise, 8-bit sRGB

    @property
    def format_version(self) -> int:
        return 2 if self.target == "classes" else 1


@dataclass(frozen=True)
class Adapter:
    """An adapter folder that was read, its LoRA weights not yet."""

    path: Path
    config: AdapterConfig
    prompt_embedding: torch.Tensor  # [1, T, D]
    scheduler: DDIMScheduler


def save_adapter(
    directory: str | Path,
    peft_model: PeftModel,
    config: AdapterConfig,
    prompt_embedding: torch.Tensor,
    card: str,
    pictures: dict[str, object] | None = None,
    prediction_type: str = "v_prediction",
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the whole folder under a temporary name, then put it in place.

    Args:
        peft_model: what `sdseg.model.add_lora` returned.
        prompt_embedding: [1, T, D].
        card: README.md, Markdown with front matter.
        pictures: file name -> uint8 [H, W, 3] sRGB for the card, written to pictures/.
        prediction_type: what the UNet was trained to predict, kept in the scheduler.
        weights: of the LoRA layers, by the names of the model's parameters; None takes those that the layers hold.
    """
    from safetensors.torch import save_file

    from sdseg.imaging import write_image
    from sdseg.model import inference_scheduler

    directory = Path(directory)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    lora_config = peft_model.peft_config["default"]
    lora_config.base_model_name_or_path = config.pretrained_model_name_or_path
    lora_config.revision = config.revision
    # PEFT would ask the Hub whether the base's vocabulary was resized
    peft_model.save_pretrained(partial, save_embedding_layers=False, state_dict=weights)
    _sort_target_modules(partial / "adapter_config.json")
    _write_json(partial / "sdseg_config.json", asdict(config) | {"format_version": config.format_version})
    inference_scheduler(prediction_type=prediction_type).save_pretrained(partial / "scheduler")
    save_file(
        {"prompt_embedding": prompt_embedding.float().cpu().contiguous()},
        partial / "prompt_embedding.safetensors",
    )
    (partial / "README.md").write_text(card, encoding="utf-8")
    for name, picture in (pictures or {}).items():
        write_image(partial / "pictures" / name, picture)
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        os.replace(directory, old)
    os.replace(partial, directory)
    shutil.rmtree(old, ignore_errors=True)


def _sort_target_modules(path: Path) -> None:
    """PEFT keeps the names in a set; sorted, the same adapter gives the same bytes."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["target_modules"] = sorted(settings["target_modules"])
    _write_json(path, settings)


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_adapter(directory_or_hub_id: str | Path) -> Adapter:
    """Read everything of an adapter folder but its weights; a name that is no folder is asked of the Hub.

    Raises:
        AdapterError: missing, incomplete, or of a newer format; the message names the remedy.
    """
    from safetensors.torch import load_file

    path = _fetch(directory_or_hub_id)
    wanted = [
        "sdseg_config.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "prompt_embedding.safetensors",
    ]
    for name in [*wanted, "scheduler/scheduler_config.json"]:
        if not (path / name).is_file():
            raise AdapterError(
                f"adapter {directory_or_hub_id}: {name} is missing; give the folder that train.py wrote "
                "(the one that holds sdseg_config.json)"
            )
    config = read_adapter_config(path, name=directory_or_hub_id)
    with damage_named(directory_or_hub_id):
        prompt_embedding = load_file(path / "prompt_embedding.safetensors")["prompt_embedding"]
        scheduler = _read_scheduler(path / "scheduler" / "scheduler_config.json")
    return Adapter(path, config, prompt_embedding, scheduler)


def read_adapter_config(path: Path, name: str | Path | None = None) -> AdapterConfig:
    """The `sdseg_config.json` of a folder; errors call the adapter `name`, or by its folder.

    Raises:
        AdapterError: damaged, or of a newer format.
    """
    name = path if name is None else name
    with damage_named(name):
        stored = json.loads((path / "sdseg_config.json").read_text(encoding="utf-8"))
        version = stored["format_version"]
        if version > FORMAT_VERSION:
            raise AdapterError(
                f"adapter {name} has format {version}, this sdseg reads up to {FORMAT_VERSION}; update sdseg"
            )
        known = {item.name for item in fields(AdapterConfig)}
        config = AdapterConfig(**{key: value for key, value in stored.items() if key in known})
        for key, scale in config.calibration.items():
            if not (isinstance(scale, int | float) and math.isfinite(scale) and scale > 0):
                raise AdapterError(
                    f"adapter {name}: the scale for {key} in sdseg_config.json is {scale!r}; give a number above 0, or "
                    "remove the entry"
                )
    return config


def store_scale(directory: str | Path, key: str, scale: float) -> dict[str, float]:
    """Keep a factor on the standard deviation in an adapter folder, under `calibration_key`, and in its model card
    where that tells the scales. The rest of both files stays as it is.

    Returns:
        All scales that the folder now holds.

    Raises:
        AdapterError: `sdseg_config.json` is damaged or of a newer format.
    """
    from sdseg.imaging import replacing

    directory = Path(directory)
    scales = read_adapter_config(directory).calibration | {key: scale}
    file, card = directory / "sdseg_config.json", directory / "README.md"
    stored = json.loads(file.read_text(encoding="utf-8"))
    with replacing(file) as temporary:
        _write_json(temporary, stored | {"calibration": scales})
    if card.is_file():
        lines = card.read_text(encoding="utf-8").splitlines(keepends=True)
        told = [scales_line(scales) + "\n" if line.startswith(SCALES_LINE) else line for line in lines]
        if told != lines:
            with replacing(card) as temporary:
                temporary.write_text("".join(told), encoding="utf-8")
    return scales


def weights_digest(directory: str | Path) -> str:
    """SHA-256 of an adapter's weights, in hexadecimal: the same for every copy of an adapter, whatever its path."""
    with (Path(directory) / "adapter_model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_scheduler(path: Path) -> DDIMScheduler:
    """The scheduler with these settings; `from_pretrained` would import every scheduler there is to look for kin."""
    from inspect import signature

    from diffusers import DDIMScheduler

    known = signature(DDIMScheduler.__init__).parameters
    stored = json.loads(path.read_text(encoding="utf-8"))
    return DDIMScheduler(**{name: value for name, value in stored.items() if name in known})


@contextmanager
def damage_named(adapter: str | Path) -> Iterator[None]:
    """Turns what reading an adapter's file raises, each kind of file in its own way, into an AdapterError."""
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:
        raise AdapterError(f"adapter {adapter} is damaged ({one_line(error)}); copy it again") from error


def _fetch(directory_or_hub_id: str | Path) -> Path:
    from sdseg.model import EMBEDDED, EMBEDDED_ADAPTER, is_hub_id, snapshot

    name = str(directory_or_hub_id)
    if name == EMBEDDED:
        return EMBEDDED_ADAPTER
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_id(name):
        raise AdapterError(f"adapter {name!r} is no folder and no Hub id; give the folder that train.py wrote")
    try:
        return Path(snapshot(name))
    except MissingFile as error:
        raise AdapterError(f"adapter {error}") from error


def load_adapter(adapter: Adapter, base: Base) -> PeftModel:
    """Put the adapter's LoRA layers and weights into `base.unet`, in the UNet's own precision.

    `base.unet` remains the UNet, now with the layers in it.

    Raises:
        AdapterError: the base is not the one the adapter was trained on, or see `load_lora_weights`.
    """
    import torch
    from peft import PeftConfig, get_peft_model

    refuse_other_base(adapter, base)
    with damage_named(adapter.path):
        config = PeftConfig.from_pretrained(str(adapter.path))
    config.inference_mode = True
    config.base_model_name_or_path = None  # PEFT looks for a name in the UNet, finds none, and would warn
    with torch.random.fork_rng(devices=[]):  # PEFT draws initial values that are overwritten below
        peft_model = get_peft_model(base.unet, config, autocast_adapter_dtype=False)
    load_lora_weights(peft_model, adapter)
    return peft_model


def refuse_other_base(adapter: Adapter, base: Base) -> None:
    """Raises AdapterError unless the adapter was trained on these weights."""
    from sdseg.model import same_fingerprint

    if not same_fingerprint(adapter.config.fingerprint, base.fingerprint):
        raise AdapterError(
            f"adapter {adapter.path} was trained on base {adapter.config.pretrained_model_name_or_path!r}, whose "
            f"weights differ from those of {base.name!r}; pass the base it was trained on"
        )


def read_lora_weights(adapter: Adapter) -> dict[str, torch.Tensor]:
    """The tensors of `adapter_model.safetensors`; raises AdapterError where it is damaged."""
    from safetensors.torch import load_file

    with damage_named(adapter.path):
        return load_file(adapter.path / "adapter_model.safetensors")


def load_lora_weights(peft_model: PeftModel, adapter: Adapter) -> None:
    """Copy the adapter's weights into LoRA layers that are there already; keys and shapes must match exactly.

    Raises:
        AdapterError: a damaged file, or a tensor that is missing, left over or of another shape.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    stored = read_lora_weights(adapter)
    expected = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    refuse_other_tensors(adapter, stored, {key: tuple(value.shape) for key, value in expected.items()})
    set_peft_model_state_dict(peft_model, stored)


def refuse_other_tensors(
    adapter: Adapter, stored: dict[str, torch.Tensor], expected: dict[str, tuple[int, ...]]
) -> None:
    """Raises AdapterError for the first tensor, by name, that is missing, left over or of another shape."""
    for key in sorted(expected.keys() | stored.keys()):
        if key not in stored:
            raise AdapterError(f"adapter {adapter.path}: tensor {key} is missing; copy the adapter again")
        if key not in expected:
            raise AdapterError(f"adapter {adapter.path}: tensor {key} has no place among the LoRA layers of this run")
        if stored[key].shape != expected[key]:
            raise AdapterError(
                f"adapter {adapter.path}: tensor {key} has shape {list(stored[key].shape)}, but "
                f"{list(expected[key])} is needed; base, rank and layers must be those it was trained with"
            )
