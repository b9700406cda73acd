"""Pictures of which samples are being drawn, and which of these pass through the model together."""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import torch

from sdseg.errors import UserError

BATCH_PIXELS, BATCH_MOST = 768**2, 16  # of batches whose size nobody has set: one sample at SD2's full size
LOOK_AHEAD = 2  # how many pictures may come while one waits for others of its size, in batches' worth of pictures


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn; see `MattingSession.__call__`."""

    num_inference_steps: int
    ensemble_size: int  # at most, where `tolerance` is given
    processing_resolution: int
    batch_size: int | None = None
    shared: bool = False  # batches hold samples of several pictures
    eta: float = 0.0
    tolerance: float | None = None  # standard error of the mean, in alpha units, below which an ensemble is enough

    def batch_for(self, height: int, width: int) -> int:
        """How many samples of this size pass through the model together."""
        return self.batch_size or min(BATCH_MOST, max(1, BATCH_PIXELS // (height * width)))


@dataclass(eq=False)
class Progress:
    """A picture of which samples are being drawn."""

    key: Hashable
    number: int  # of pictures that came before
    pixels: torch.Tensor  # [1, 3, PPH, PPW] in [-1, 1]
    padding: tuple[int, int]
    size: tuple[int, int]  # (H, W) of the picture itself
    noise: torch.Tensor  # [E, 4, h, w]
    step_noise: torch.Tensor | None  # [steps - 1, E, 4, h, w], where eta is above 0
    wanted: int
    latent: torch.Tensor | None = None  # [1, 4, h, w], once the picture was encoded
    samples: list[torch.Tensor] = field(default_factory=list)  # [PH, PW] each, float32, or class ids int64
    second: torch.Tensor | None = None  # [H, W], the matte of a second pass in tiles
    seconds: float = 0.0  # its share of the time that its batches took


def next_batch(waiting: dict[tuple, list[Progress]], number: int, how: Drawing) -> list[Progress] | None:
    """The pictures of one working size that fill a batch, or one of which has waited long enough; None: more may come.

    Args:
        waiting: pictures by the shape of their pixels.
        number: of the picture that came last.
    """
    for shape, queue in waiting.items():
        batch = how.batch_for(*shape[-2:]) if how.shared else 1
        samples = sum(progress.wanted - len(progress.samples) for progress in queue)
        if samples >= batch or (queue and number - queue[0].number > LOOK_AHEAD * -(-batch // how.ensemble_size)):
            return queue
    return None


def unique(batch: list[tuple[Progress, int]]) -> list[Progress]:
    """The pictures of a batch, each once."""
    return list({id(progress): progress for progress, _ in batch}.values())


def smaller_batch(error: Exception, tried: int, how: Drawing) -> tuple[Drawing, Exception | None]:
    """`how` with half the batch where memory ended, and None; or what the pictures of the batch fail with."""
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    if not should_reduce_batch_size(error):
        return how, error
    clear_device_cache(garbage_collection=True)
    if tried > 1:
        return replace(how, batch_size=tried // 2), None
    return how, UserError(
        f"memory does not suffice for one sample ({error}); lower processing_resolution ({how.processing_resolution}), "
        "use bfloat16, or enable VAE tiling"
    )
