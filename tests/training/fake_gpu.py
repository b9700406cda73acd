"""The training step and the pipeline on a GPU that is not there: python tests/training/fake_gpu.py BASE PAIRS

The tensors are fake (PyTorch's FakeTensorMode): they have shapes, types and devices but no values, and an operation on
tensors of two devices fails as it would on a GPU. Autograd takes no fake tensors of `cuda` in a PyTorch built without
CUDA, so the device is one registered here. That holds for a whole process, hence a script of its own.
"""

import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorDeviceMismatchError, FakeTensorMode
from torch.utils import backend_registration

from sdseg.inference.session import MattingSession
from sdseg.model import inference_scheduler
from sdseg.training.batches import open_batches
from sdseg.training.config import TrainingConfig
from sdseg.training.run import Run, prepare
from sdseg.training.weights import adamw, learning_rate_schedule, moving_average, trained_parameters


class Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:  # autocast asks for it
        return [torch.bfloat16]


class Mode(FakeTensorMode):
    avoid_device_init = True  # constants have values even here; they are never to be copied to the device


backend_registration._setup_privateuseone_for_python_backend("fake_gpu", Backend())
GPU = torch.device("fake_gpu", 0)
MODE = Mode(allow_non_fake_inputs=True)  # constants are made fake on the CPU


def move(module: torch.nn.Module) -> None:
    """Replaces all parameters and buffers by fake ones on the GPU."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                fake = MODE.from_tensor(value.detach()).to(GPU)
                part._parameters[name] = torch.nn.Parameter(fake, requires_grad=value.requires_grad)
        for name, value in part._buffers.items():
            part._buffers[name] = value if value is None else MODE.from_tensor(value).to(GPU)


def fake_run(base: str, pairs: str, **settings) -> Run:
    """A run as `prepare` leaves it, moved to the GPU; its batches are on the CPU, as a loader gives them."""
    run = prepare(
        TrainingConfig(
            output_dir="none", pretrained_model_name_or_path=base, train_data_dir=pairs, resolution=32,
            train_batch_size=2, max_train_steps=6, lr_warmup_steps=0, rank=2, report_to="none", **settings,
        )
    )  # fmt: skip
    batches = list(open_batches(run))
    with MODE:
        move(run.base.vae)
        move(run.base.unet)
        run.base.prompt_embedding = MODE.from_tensor(run.base.prompt_embedding).to(GPU)
        run.lora = trained_parameters(run.peft_model)
        run.optimizer = adamw(run.lora, run.config)
        run.schedule = learning_rate_schedule(run.optimizer, run.config, 0)
        run.average = moving_average(run.lora, 0.9)
        run.batches = iter([{key: MODE.from_tensor(value) for key, value in batch.items()} for batch in batches])
    run.accelerator.state.device = GPU
    return run


def all_samples(tensor: torch.Tensor) -> torch.Tensor:
    """In place of `nonzero`, whose shape depends on values: all samples, so each goes through the decoder as well."""
    return torch.arange(len(tensor), device=tensor.device)[:, None]


def train_a_step(run: Run) -> None:
    with MODE, patch.object(torch.Tensor, "nonzero", all_samples):
        losses, indices = run.accumulate()
        run.update()
    tensors = [losses, indices, *run.lora.values(), *run.average.shadow_params]
    tensors += [moment for state in run.optimizer.state.values() for moment in state.values()]
    assert len(run.optimizer.state) == len(run.lora) > 0
    assert {tensor.device for tensor in tensors} == {GPU}


def matte(run: Run, prompt_embedding: torch.Tensor) -> None:
    session = MattingSession(run.base.unet, run.base.vae, inference_scheduler(), prompt_embedding)
    picture = np.zeros((20, 30, 3), np.uint8)
    in_range = patch.object(session.image_processor, "check_image_values_range")
    finite = patch.object(torch.Tensor, "__bool__", lambda self: True)
    times = patch.object(FakeTensor, "tolist", lambda self: [1] * len(self))
    flat = patch("sdseg.inference.session.is_flat", lambda pixels: False)
    with MODE, times, in_range, finite, flat:  # all that depends on values
        output = session(picture, 2, 3, 32, batch_size=2, output_type="pt", output_uncertainty=True)
    for tensor in (output.prediction[0], output.uncertainty[0]):
        assert tensor.shape == (20, 30) and tensor.device.type == "cpu"


def refused(action) -> None:
    """A tensor that is left on the CPU is found."""
    try:
        action()
    except (FakeTensorDeviceMismatchError, RuntimeError) as error:
        assert "device" in str(error), error
    else:
        raise AssertionError("tensors of two devices went together")


if __name__ == "__main__":
    cached = {"cache_latents": True, "pixel_loss_share": 0.5, "gradient_accumulation_steps": 2}
    for settings in (cached, {}):
        run = fake_run(*sys.argv[1:], **settings)
        train_a_step(run)
        print(settings, "trains")
    encode = Run.encode
    for key in ("noise", "image_latents", "timestep", "latent_valid"):
        with patch.object(Run, "encode", lambda run, batch, key=key: (b := encode(run, batch)) | {key: b[key].cpu()}):
            refused(lambda: train_a_step(run))
        print(key, "on the CPU is noticed")
    matte(run, torch.zeros(run.base.prompt_embedding.shape))  # the pipeline moves it to the UNet's device
    print("mattes are drawn")
    import sdseg.inference.session

    encode_image = sdseg.inference.session.encode_image
    with patch.object(sdseg.inference.session, "encode_image", lambda *args: encode_image(*args).cpu()):
        refused(lambda: matte(run, run.base.prompt_embedding))
    print("image latents on the CPU are noticed there")
