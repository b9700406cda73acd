"""Pairs encoded by the VAE: anew in each step, or once before training and kept in memory or on disk.

Latents on disk lie in DIRECTORY/<key>/, where key is a digest of all that decides their values (see `cache_key`):

cache.json             what the key was computed from, for people to read
00000.safetensors      latents of SHARD_ENTRIES consecutive entries; entry i·cached_variants + v is variant v of pair i
00000.lock             held by the process that encodes this shard

A shard is written under a temporary name and renamed, so it is either whole or absent. Its metadata hold a checksum; a
shard that does not match is encoded again. A lock is released when its process ends, however it ends, so any number of
processes, of one run or of several, can fill a cache together and encode each shard once.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from sdseg.data.augmentation import PERMUTATION, draw_generator, latent_valid
from sdseg.data.pairs import DataError
from sdseg.data.sources import Source
from sdseg.imaging import replacing
from sdseg.model import encode_alpha, encode_image, vae_scale_factor
from sdseg.targets import paint

CACHE_FORMAT = 1
SHARD_ENTRIES = 128  # 17 MB at 512 px


class LatentSource:
    """Pairs encoded once, each in a fixed number of augmented variants. Items hold latents, and with `keep_pixels` also
    the mattes or class ids that were encoded.

    The latents are kept in memory, or with `latent_cache_dir` on disk and memory-mapped. Both give the same bits, since
    entry i is encoded in the same batch either way.
    """

    def __init__(
        self,
        pictures: Source,
        vae,
        cached_variants: int,
        seed: int,
        device,
        progress,
        batch_size: int | None = None,
        keep_pixels: bool = False,
        latent_cache_dir: str | Path | None = None,
        process_index: int = 0,
        num_processes: int = 1,
        colours: np.ndarray | None = None,
    ):
        """Encodes what is not on disk yet.

        Args:
            progress: wraps the iterable of shard numbers, as tqdm does.
            batch_size: entries encoded at once, a power of two up to SHARD_ENTRIES; None chooses it by resolution.
            latent_cache_dir: parent folder of all caches; None keeps the latents in memory.
            colours: uint8 [classes, 3], the colours that class ids are painted in.
            process_index, num_processes: of those that encode together; each begins at another shard.

        Raises:
            DataError: a pair cannot be read, or `latent_cache_dir` cannot be written.
        """
        self.pictures, self.cached_variants = pictures, cached_variants
        self._vae, self._seed, self._device = vae, seed, device
        self._batch_size = batch_size or default_batch_size(pictures.resolution)
        self._colours = colours
        self._keys = ["image_latents", "matte_latents", "latent_valid"]
        if keep_pixels:
            self._keys += ["alpha" if colours is None else "classes", "valid"]
        self._entries = len(pictures) * cached_variants
        count = -(-self._entries // SHARD_ENTRIES)
        if latent_cache_dir is None:
            numbers = progress(range(count), desc="encoding pairs", unit="shard")
            self.shards = [self._encode(number) for number in numbers]
            return
        described = cache_key(pictures, vae, cached_variants, seed, keep_pixels, self._batch_size)
        if colours is not None:
            described["colours"] = colours.tolist()
        folder = (
            Path(latent_cache_dir) / hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
        )
        first = process_index * count // num_processes
        numbers = [*range(first, count), *range(first)]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / "cache.json") as partial:
                partial.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
            shards = {
                number: self._open_or_encode(folder, number, wait=False)
                for number in progress(numbers, desc="latent cache", unit="shard")
            }
            # other processes' shards come last: most are finished by then
            self.shards = [shards[number] or self._open_or_encode(folder, number, wait=True) for number in range(count)]
        except OSError as error:
            raise DataError(
                f"latent_cache_dir {latent_cache_dir} cannot be used ({error.strerror or error}); make room, or name a "
                "folder you may write to"
            ) from error

    def __getstate__(self) -> dict:
        """Without the VAE, which has done its work: loader processes that are not forked get a pickled copy."""
        return self.__dict__ | {"_vae": None}

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return self.pictures.name(index)

    def order(self, *key: int) -> torch.Tensor:
        return self.pictures.order(*key)

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        variant = torch.randint(self.cached_variants, (), generator=generator).item()
        number, row = divmod(index * self.cached_variants + variant, SHARD_ENTRIES)
        return {key: values[row] for key, values in self.shards[number].items()}

    def _encode(self, number: int) -> dict[str, torch.Tensor]:
        """One shard of E entries: `image_latents`, `matte_latents` float32 [E, 4, h, w], `latent_valid` bool
        [E, 1, h, w]; with `keep_pixels` also `alpha` float32 or `classes` int16, and `valid` bool, [E, 1, H, W]."""
        parts = {key: [] for key in self._keys}
        last = min(self._entries, (number + 1) * SHARD_ENTRIES)
        for start in range(number * SHARD_ENTRIES, last, self._batch_size):
            entries = (divmod(e, self.cached_variants) for e in range(start, min(last, start + self._batch_size)))
            fitted = [
                self.pictures.fetch(index, draw_generator(self._seed, PERMUTATION, index, variant))
                for index, variant in entries
            ]
            pixels = {key: torch.stack([item[key] for item in fitted]) for key in fitted[0]}
            encoded = encode_batch(pixels, self._vae, self._device, self._colours)
            for key in self._keys:
                parts[key].append(encoded[key].cpu())
        return {key: torch.cat(values) for key, values in parts.items()}

    def _open_or_encode(self, folder: Path, number: int, wait: bool) -> dict[str, torch.Tensor] | None:
        """A shard, encoded and written first where it is missing or damaged. None where another process is encoding it,
        unless `wait`."""
        if shard := self._open(folder, number):
            return shard
        try:
            with FileLock(folder / f"{number:05d}.lock", timeout=-1 if wait else 0):
                if shard := self._open(folder, number):  # another process has finished it meanwhile
                    return shard
                write_shard(folder / f"{number:05d}.safetensors", self._encode(number))
        except Timeout:
            return None
        shard = self._open(folder, number)
        assert shard, f"shard {number} of {folder} cannot be read after it was written"
        return shard

    def _open(self, folder: Path, number: int) -> dict[str, torch.Tensor] | None:
        entries = min(SHARD_ENTRIES, self._entries - number * SHARD_ENTRIES)
        return open_shard(folder / f"{number:05d}.safetensors", self._keys, entries)


def default_batch_size(resolution: int) -> int:
    """How many pictures the VAE encodes at once: 64 up to 128 px, 4 at 512 px, where each takes about 0.5 GB."""
    fitting = min(64, max(1, 2**20 // resolution**2))
    return 1 << (fitting.bit_length() - 1)  # the power of two at or below it


def cache_key(pictures: Source, vae, cached_variants: int, seed: int, keep_pixels: bool, batch_size: int) -> dict:
    """All that decides the values in a cache; a change to these keys makes every existing cache useless."""
    augmentation = pictures.augmentation
    return {
        "format": CACHE_FORMAT,
        "data": pictures.digest(),
        "contents": pictures.checksum(),
        "vae": vae_digest(vae),
        "resolution": pictures.resolution,
        "random_flip": augmentation.random_flip,
        "min_crop_scale": augmentation.min_crop_scale,
        "variants": cached_variants,
        "seed": seed,
        "keep_pixels": keep_pixels,
        "batch_size": batch_size,
    }


def vae_digest(vae) -> str:
    """A digest of the encoder's weights, their dtype and the scaling factor; 16 hexadecimal digits."""
    digest = hashlib.sha256(f"{vae.config.scaling_factor} {vae.dtype}".encode())
    for name, value in sorted(vae.state_dict().items()):
        if not name.startswith(("decoder.", "post_quant_conv.")):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------- one shard


def write_shard(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a shard with a checksum in its metadata; the file is either whole or absent."""
    from safetensors.torch import save_file

    tensors = {key: value.contiguous() for key, value in tensors.items()}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"crc32": str(checksum(tensors))})


def open_shard(path: Path, keys: list[str], entries: int) -> dict[str, torch.Tensor] | None:
    """What `write_shard` wrote, memory-mapped; None if it is absent, damaged, or has other keys or another length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != set(keys):
                return None
            tensors = {key: file.get_tensor(key) for key in keys}
            crc32 = (file.metadata() or {}).get("crc32")
    except (FileNotFoundError, SafetensorError):
        return None
    whole = all(len(value) == entries for value in tensors.values()) and crc32 == str(checksum(tensors))
    return tensors if whole else None


def checksum(tensors: dict[str, torch.Tensor]) -> int:
    """CRC-32 of all tensors' bytes, in the order of their names."""
    crc32 = 0
    for key in sorted(tensors):
        crc32 = zlib.crc32(tensors[key].flatten().view(torch.uint8).numpy(), crc32)
    return crc32


# ---------------------------------------------------------------------------------------------- one batch


def encode_batch(
    batch: dict[str, torch.Tensor], vae, device, colours: np.ndarray | None = None
) -> dict[str, torch.Tensor]:
    """Adds to a batch of pixels `image_latents`, `matte_latents` float32 [B, 4, h, w] and `latent_valid` bool
    [B, 1, h, w]; everything is on `device`.

    A batch with `classes` in place of `alpha` is painted in `colours`, uint8 [classes, 3], and encoded like an image.
    """
    batch = {key: values.to(device) for key, values in batch.items()}
    if "classes" in batch:
        matte_latents = encode_image(vae, paint(batch["classes"][:, 0], colours))
    else:
        matte_latents = encode_alpha(vae, batch["alpha"])
    return batch | {
        "image_latents": encode_image(vae, batch["image"]).float(),
        "matte_latents": matte_latents.float(),
        "latent_valid": latent_valid(batch["valid"], vae_scale_factor(vae)),
    }
