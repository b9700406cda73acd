"""A run on several processes: sharded tensors, signals, launches that are refused."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from sdseg.training.config import ConfigError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from sdseg.training.config import TrainingConfig


_kept: list[Any] = []  # process groups, see `keep_process_group`


class StoppedBySignal(Exception):
    """A signal stopped the run, after a checkpoint was saved."""

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name} at step {step}")
        self.exit_code = 128 + signal_number


def keep_process_group(group: torch.distributed.ProcessGroup) -> None:
    """Keeps a process group alive until Python exits.

    Otherwise DDP's reducer would be its last owner. It destroys the group while holding the GIL, and joins gloo's
    thread, which may need the GIL to free a tensor: a finished process would hang (torch 2.13).
    """
    _kept.append(group)


def printed_already(message: str) -> bool:
    """Whether another process of this launch has called this with the same message, so that it is printed once.

    It counts in torchrun's store, which `accelerate launch` starts as well, since settings are refused before there is
    a process group. Without that store every process prints.
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
    except RuntimeError:  # the launcher has exited
        return False


def refuse_deepspeed() -> None:
    """Raises ConfigError under an `accelerate launch` whose file asks for DeepSpeed; before Accelerate looks for it."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ConfigError(
            "the launch asks for DeepSpeed, which is not supported: it would shard LoRA's moments, which are small; "
            "use configs/accelerate/ddp.yaml, or fsdp.yaml to shard the UNet as well"
        )


def refuse_contradictions(config: TrainingConfig) -> None:
    """Raises ConfigError where a variable that Accelerate reads asks for other arithmetic than the settings.

    `accelerate launch` sets some of them to what they are without it.
    """
    accumulated = str(config.gradient_accumulation_steps)
    for variable, key, neutral in (
        ("ACCELERATE_MIXED_PRECISION", "mixed_precision", {"", "no", config.mixed_precision}),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "gradient_accumulation_steps", {"", "1", accumulated}),
        ("ACCELERATE_DYNAMO_BACKEND", "torch_compile", {"", "no"}),
    ):
        value = os.environ.get(variable, "")
        if value.lower() not in neutral:
            raise ConfigError(
                f"the launch sets {variable} to {value}, but {key} is {getattr(config, key)}; settings alone decide: "
                f"set {key}, and leave it out of the launch (accelerate's flags or file, or unset {variable})"
            )
    if os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false").lower() == "true":
        raise ConfigError(
            "the launch asks for a parallelism_config (ACCELERATE_USE_PARALLELISM_CONFIG), which is not supported; use "
            "configs/accelerate/ddp.yaml, or fsdp.yaml to shard the UNet as well"
        )


def check_launch(accelerator: Accelerator, config: TrainingConfig) -> None:
    """Refuses launches that cannot keep what a run promises, and prints where FSDP was asked for and not given.

    Megatron-LM takes the optimiser's step itself and keeps its moments in files of its own, for as many processes as
    wrote them.
    """
    kind = accelerator.distributed_type.value
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and kind != "FSDP":
        accelerator.print(f"FSDP was asked for, but Accelerate gives distributed_type {kind}; nothing is sharded")
    if kind == "MEGATRON_LM":
        raise ConfigError(
            f"distributed_type {kind} is not supported: its checkpoints could not be resumed on another number of "
            "processes; use configs/accelerate/fsdp.yaml, which shards more, or ddp.yaml"
        )
    if kind != "FSDP":
        return
    if not accelerator.is_fsdp2:
        raise ConfigError("fsdp_version is 1; set it to 2, as in configs/accelerate/fsdp.yaml")
    for name in ("torch_compile", "channels_last"):
        if getattr(config, name):
            raise ConfigError(f"{name} is true, but is not supported under {kind}; set it to false, or use ddp.yaml")


def whole_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that FSDP may have sharded, whole and in CPU memory on every process; all of them must call this."""
    import torch

    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def shard_like(other: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the device of `other`, and sharded like it where both have one shape."""
    tensor = tensor.to(other.device)
    if not hasattr(other, "full_tensor") or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, other.device_mesh, other.placements)


class StopFlag:
    """Turns SIGINT and SIGTERM into a flag that the loop checks after each step.

    A launcher killed by SIGKILL passes no signal on, so a process whose launcher has exited stops as well.
    A second SIGINT interrupts immediately.
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
