"""The command line of training: `train.py`, `sdseg train` and `python -m sdseg.training`."""

import sys

from sdseg.errors import first_line, one_line, reported, steady_streams
from sdseg.training.config import parse_training_config
from sdseg.training.loop import NonFiniteLoss, train
from sdseg.training.processes import StoppedBySignal, printed_already


def main(argv: list[str] | None = None, prog: str = "sdseg train") -> int:
    """Run `train.py`; returns the exit code: 0 done, 1 failed in training, 2 bad input, 128 + n signal n."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return reported(lambda: train(parse_training_config(argv, prog)), print_error=print_once)
    except StoppedBySignal as stop:
        print_once(f"{stop}; a checkpoint is saved, run the same command to go on")
        return stop.exit_code
    except (NonFiniteLoss, FloatingPointError) as error:
        print_once(f"error: {one_line(error)}")
        return 1
    except RuntimeError as error:
        import torch

        if isinstance(error, torch.cuda.OutOfMemoryError):
            remedy = (
                "lower train_batch_size or set gradient_checkpointing; --dry_run prints the largest batch that fits"
            )
            print_once(f"error: out of device memory ({first_line(error)}); {remedy}")
        elif isinstance(error, torch._dynamo.exc.TorchDynamoException):
            print_once(f"error: torch_compile: {first_line(error)}; set torch_compile to false")
        else:
            raise
        return 1


def print_once(message: str) -> None:
    """Prints an error common to all processes once."""
    if not printed_already(message):
        print(message, file=sys.stderr)


if __name__ == "__main__":
    steady_streams()
    sys.exit(main())
