"""train.py sharded on processors: torchrun --nproc_per_node 2 tests/train_sharded.py CONFIG_FILE --key=value ...

Accelerate shards on accelerators alone: on processors the settings of configs/accelerate/fsdp.yaml become plain data
parallelism without a word, and those of deepspeed_zero2.yaml single processes. Here its state is set by hand to what
those settings would make of it; all that follows is Accelerate's, PyTorch's and DeepSpeed's own.
"""

import os
import sys
from pathlib import Path

import accelerate
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

ROOT = Path(__file__).parents[2]
Plain = accelerate.Accelerator


def told_by_launch(config_file: str) -> tuple[DistributedType, dict[str, str]]:
    """The kind of `accelerate launch --config_file`, and what it tells of it to the processes it starts."""
    given = launch_command_parser().parse_args(["--config_file", config_file, "train.py"])
    args, _, _ = _validate_launch_command(given)
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ""  # of a file for DeepSpeed beside this one
        _, environment = prepare_deepspeed_cmd_env(args)
        return DistributedType.DEEPSPEED, {key: value for key, value in environment.items() if "DEEPSPEED" in key}
    return DistributedType.FSDP, {key: value for key, value in prepare_multi_gpu_env(args).items() if "FSDP" in key}


def sharding(**words) -> accelerate.Accelerator:
    accelerator = Plain(**words)
    assert accelerator.distributed_type == DistributedType.MULTI_CPU
    plugin = FullyShardedDataParallelPlugin() if kind == DistributedType.FSDP else DeepSpeedPlugin()  # read variables
    if words["mixed_precision"] != "no":
        plugin.set_mixed_precision(words["mixed_precision"])
    for state in (PartialState, AcceleratorState):
        state._shared_state["distributed_type"] = kind
    AcceleratorState._shared_state["fsdp_plugin" if kind == DistributedType.FSDP else "deepspeed_plugins"] = plugin
    return accelerator


def share_held(lora: dict, optimizer) -> float:
    """Of LoRA under FSDP, of its moments under DeepSpeed."""
    if kind == DistributedType.FSDP:
        held = sum(value.to_local().numel() for value in lora.values())
    else:
        held = sum(moments["exp_avg"].numel() for moments in optimizer.adamw.state.values())
    return held / sum(value.numel() for value in lora.values())


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    kind, variables = told_by_launch(sys.argv[1])
    os.environ |= variables
    if kind == DistributedType.DEEPSPEED:
        import deepspeed

        deepspeed.init_distributed("gloo", verbose=False)
    accelerate.Accelerator = sharding
    import sdseg.training.__main__
    import sdseg.training.run

    def told(lora, optimizer, *rest, checkpoint_tensors=sdseg.training.run.checkpoint_tensors):
        print(f"holds {share_held(lora, optimizer):.3f}", flush=True)
        return checkpoint_tensors(lora, optimizer, *rest)

    sdseg.training.run.checkpoint_tensors = told
    sys.exit(sdseg.training.__main__.main(sys.argv[2:]))
