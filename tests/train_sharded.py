"""train.py under FSDP 2 on processors: torchrun --nproc_per_node 2 tests/train_sharded.py --key=value ...

Accelerate shards on accelerators alone: on processors the settings of configs/accelerate/fsdp.yaml become plain data
parallelism without a word. Here its state is set by hand to what those settings would make of it; all that follows is
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

ROOT = Path(__file__).parent.parent
Plain = accelerate.Accelerator


def variables(config_file: Path) -> dict[str, str]:
    """What `accelerate launch --config_file` tells of FSDP to the processes it starts."""
    args, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(config_file), "train.py"])
    )
    return {key: value for key, value in prepare_multi_gpu_env(args).items() if "FSDP" in key}


def sharding(**words) -> accelerate.Accelerator:
    accelerator = Plain(**words)
    assert accelerator.distributed_type == DistributedType.MULTI_CPU
    plugin = FullyShardedDataParallelPlugin()  # reads the variables
    if words["mixed_precision"] != "no":
        plugin.set_mixed_precision(words["mixed_precision"])
    for state in (PartialState, AcceleratorState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = plugin
    return accelerator


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ |= variables(ROOT / "configs" / "accelerate" / "fsdp.yaml")
    accelerate.Accelerator = sharding
    import sdseg.training

    def told(lora, *rest, checkpoint_tensors=sdseg.training.checkpoint_tensors):
        held = sum(value.to_local().numel() for value in lora.values())
        print(f"holds {held / sum(value.numel() for value in lora.values()):.3f} of LoRA", flush=True)
        return checkpoint_tensors(lora, *rest)

    sdseg.training.checkpoint_tensors = told
    sys.exit(sdseg.training.main(sys.argv[1:]))
