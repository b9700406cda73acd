"""One run on several processes: what the main one alone does, what each holds, how all stop, what is refused."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sdseg.training.config import ConfigError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from sdseg.training.config import TrainingConfig


_kept: list[Any] = []  # process groups, see `keep_process_group`


class StoppedBySignal(Exception):
    """The run was asked to stop, and has saved."""

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name} at step {step}")
        self.exit_code = 128 + signal_number


class FailedOnMainProcess(Exception):
    """The main process failed and prints why; the other processes only end."""


def on_main_process(accelerator: Accelerator, action: Callable[[], Any]) -> None:
    """The main process runs `action` while the others wait; all go on, or all fail.

    Raises:
        Exception: what `action` raised, on the main process; FailedOnMainProcess on the others.
    """
    from accelerate.utils import broadcast_object_list

    failure: list[bool] = [False]
    raised: Exception | None = None
    if accelerator.is_main_process:
        try:
            action()
        except Exception as error:
            raised, failure = error, [True]
    broadcast_object_list(failure)
    if raised is not None:
        raise raised
    if failure[0]:
        raise FailedOnMainProcess


def keep_process_group(group: torch.distributed.ProcessGroup) -> None:
    """Holds a process group until Python ends.

    Otherwise DDP's reducer is the last to let go of it. It does so with Python's lock held, and waits for the thread of
    gloo, which may be waiting for that lock to free a tensor: a process that has done its work never ends (torch 2.13).
    """
    _kept.append(group)


def printed_already(message: str) -> bool:
    """Whether another process of this launch has asked this of the same message, so that it is printed once.

    The answer comes from torchrun's store, which `accelerate launch` starts as well: a setting is refused before there
    is a process group. Without that store every process prints.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    from datetime import timedelta

    from torch.distributed import TCPStore

    start = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=5)
        )
        return store.add(f"sdseg/printed/{start}/{message}", 1) > 1
    except RuntimeError:  # the launcher is gone
        return False


def check_launch(accelerator: Accelerator, config: TrainingConfig) -> None:
    """Refuses launches that cannot do what a run promises, and tells of those that became another than was asked for.

    Megatron-LM takes the optimiser's step itself and keeps its moments in files of its own, for as many processes as
    wrote them.
    """
    kind = accelerator.distributed_type.value
    for other in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{other}", "false").lower() == "true" and kind != other:
            accelerator.print(
                f"{other} was asked for, but Accelerate gives distributed_type {kind}; nothing is sharded"
            )
    if kind == "MEGATRON_LM":
        raise ConfigError(
            f"distributed_type {kind} is not supported: its checkpoints could not be resumed on another number of "
            "processes; use configs/accelerate/fsdp.yaml, which shards more, or ddp.yaml"
        )
    if kind not in ("FSDP", "DEEPSPEED"):
        return
    if kind == "FSDP" and not accelerator.is_fsdp2:
        raise ConfigError("fsdp_version is 1; set it to 2, as in configs/accelerate/fsdp.yaml")
    if kind == "DEEPSPEED":
        refuse_deepspeed_settings(accelerator.deepspeed_plugin.deepspeed_config)
    for name in ("use_8bit_adam", "torch_compile", "channels_last"):
        if getattr(config, name):
            raise ConfigError(f"{name} is true, but is not supported under {kind}; set it to false, or use ddp.yaml")


def refuse_deepspeed_settings(given: dict) -> None:
    """given: what DeepSpeed is told, by Accelerate's file or by one of its own."""
    remedy = "as in configs/accelerate/deepspeed_zero2.yaml"
    zero = given["zero_optimization"]
    stage = zero.get("stage", 0)
    if stage != 2:
        raise ConfigError(f"DeepSpeed's zero_stage is {stage}; set it to 2, {remedy}, or shard with fsdp.yaml")
    for name in ("offload_optimizer", "offload_param"):
        device = zero.get(name, {}).get("device", "none")
        if device != "none":
            raise ConfigError(
                f"DeepSpeed's {name}_device is {device}; set it to none, {remedy}: LoRA's moments are small"
            )
    for name in ("optimizer", "scheduler"):
        if name in given:
            raise ConfigError(f"DeepSpeed's file has {name}; leave it out, since train.py's own settings say it")


def whole_copy(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that FSDP may have spread over the processes, in the memory of each. Every process has to ask."""
    import torch

    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def spread_like(other: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the device of another, spread over the processes where that one is, and it is of its shape."""
    tensor = tensor.to(other.device)
    if not hasattr(other, "full_tensor") or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, other.device_mesh, other.placements)


class ZeroOptimizer:
    """AdamW on LoRA weights under DeepSpeed, whose ZeRO gives each process its part of moments and gradients.

    `state` and `load_state_dict` speak of whole moments by weight, as torch's optimisers do, so that checkpoints are
    those of any other launch. Every process has to ask. The engine's own `backward` and `step` are used, since those of
    Accelerate are one: the step would be taken before the losses of all processes have been looked at.
    """

    def __init__(self, engine, adamw: torch.optim.Optimizer, lora: dict[str, torch.nn.Parameter]):
        self.engine, self.adamw, self.weights = engine, adamw, list(lora.values())

    @staticmethod
    def tell(given: dict, config: TrainingConfig, trained: int) -> None:
        """Writes into what DeepSpeed is told how this run trains; before the engine is made.

        bfloat16 is autocast's, which leaves LoRA and its gradients in float32. Gradients are sent in one bucket that
        holds the `trained` parameters; DeepSpeed's default would take 2 GB of each GPU for it.
        """
        given["zero_optimization"]["reduce_bucket_size"] = trained
        given |= {
            "train_batch_size": "auto",
            "train_micro_batch_size_per_gpu": config.train_batch_size,
            "gradient_accumulation_steps": config.gradient_accumulation_steps,
            "gradient_clipping": config.max_grad_norm,
            "fp16": {"enabled": False},
            "bf16": {"enabled": False},
            "torch_autocast": {
                "enabled": config.mixed_precision == "bf16",
                "dtype": "bfloat16",
                "lower_precision_safe_modules": [],  # whose gradients would be sent in bfloat16
            },
        }

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """loss: mean over a micro-batch, of which this is the `last` of an optimiser step or not."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss)

    def step(self) -> None:
        """Raises FloatingPointError where the engine would leave a step out without a word."""
        self.engine.step()
        if not self.engine.was_step_applied():
            raise FloatingPointError(
                "the gradients are not finite; lower learning_rate; the last checkpoint is from before this step"
            )

    def zero_grad(self) -> None:
        """The engine's step has done it."""

    def take_empty_step(self) -> None:
        """A step with gradients of zero: before the first one there are no moments."""
        self.backward(sum((value * 0).sum() for value in self.weights), last=True)
        self.step()

    @property
    def state(self) -> dict[torch.nn.Parameter, dict[str, torch.Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        own = next(iter(self.adamw.state.values()))  # a flat part of many weights
        shared = {key: value for key, value in own.items() if not value.dim()}
        spread = [key for key, value in own.items() if value.dim()]
        return {
            weight: shared | {key: safe_get_full_optimizer_state(weight, key) for key in spread}
            for weight in self.weights
        }

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, given: dict) -> None:
        """given: `state`, moments by place; the weights have been loaded already."""
        import torch
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        weights = [weight.detach().clone() for weight in self.weights]
        self.take_empty_step()
        for place, (weight, value) in enumerate(zip(self.weights, weights, strict=True)):
            with torch.no_grad():
                weight.copy_(value)
            safe_set_full_fp32_param(weight, value)
            for key, moment in given["state"][place].items():
                if moment.dim():
                    safe_set_full_optimizer_state(weight, moment, key)
                    continue
                for own in self.adamw.state.values():
                    own[key].copy_(moment)


class StopFlag:
    """Turns SIGINT and SIGTERM into a flag that is acted on at a step boundary.

    A launcher that is killed does not pass its signal on, so a process whose launcher is gone stops too.
    A second SIGINT interrupts at once.
    """

    def __init__(self):
        self.signal_number = 0
        launched = "LOCAL_RANK" in os.environ or "ACCELERATE_DYNAMO_BACKEND" in os.environ
        self._parent = os.getppid() if launched else None

    @contextlib.contextmanager
    def listening(self):
        def note(signal_number, _frame):
            if signal_number == signal.SIGINT and self.signal_number:
                raise KeyboardInterrupt
            self.signal_number = signal_number

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def value(self) -> int:
        if not self.signal_number and self._parent is not None and os.getppid() != self._parent:
            self.signal_number = signal.SIGTERM
        return int(self.signal_number)
