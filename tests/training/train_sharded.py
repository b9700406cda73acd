"""train.py under FSDP on CPUs: torchrun --nproc_per_node 2 tests/training/train_sharded.py CONFIG --key=value ...

Accelerate shards on accelerators alone: on CPUs it silently turns the settings of configs/accelerate/fsdp.yaml into
plain data parallelism. Here its state is set by hand to what those settings make of it on GPUs; all that follows is
Accelerate's and PyTorch's own.
"""

import os
import sys
from pathlib import Path

import accelerate
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env

ROOT = Path(__file__).parents[2]
Plain = accelerate.Accelerator


def launch_variables(config_file: str) -> dict[str, str]:
    """What `accelerate launch --config_file` tells the processes it starts about FSDP."""
    given = launch_command_parser().parse_args(["--config_file", config_file, "train.py"])
    args, _, _ = _validate_launch_command(given)
    return {key: value for key, value in prepare_multi_gpu_env(args).items() if "FSDP" in key}


def sharding(**kwargs) -> accelerate.Accelerator:
    accelerator = Plain(**kwargs)
    assert accelerator.distributed_type == DistributedType.MULTI_CPU
    plugin = FullyShardedDataParallelPlugin()  # reads the launch variables
    if kwargs["mixed_precision"] != "no":
        plugin.set_mixed_precision(kwargs["mixed_precision"])
    for state in (PartialState, AcceleratorState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = plugin
    return accelerator


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ |= launch_variables(sys.argv[1])
    accelerate.Accelerator = sharding
    import sdseg.training.__main__
    import sdseg.training.loop

    def printing(lora, *rest, checkpoint_tensors=sdseg.training.loop.checkpoint_tensors):
        held = sum(value.to_local().numel() for value in lora.values())
        print(f"holds {held / sum(value.numel() for value in lora.values()):.3f}", flush=True)
        return checkpoint_tensors(lora, *rest)

    sdseg.training.loop.checkpoint_tensors = printing
    sys.exit(sdseg.training.__main__.main(sys.argv[2:]))
