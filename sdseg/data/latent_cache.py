"""Pairs encoded by the VAE: in each step, or once for all steps and kept in memory or on disk.

Latents on disk: DIRECTORY/<key>/, where key is a digest of all that decides their values (see `cache_key`), holds

cache.json             what the key was made of, for people
00000.safetensors      latents of SHARD_ENTRIES consecutive entries; entry i·variants + v is pair i in its variant v

A shard is written to a temporary name and renamed, so it is whole or absent; its metadata hold a checksum, and one that
does not fit is encoded again. Processes, of one run or of several, take turns by locks on byte ranges of one file, so
each shard is encoded once; a lock dies with its process.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from sdseg.data.augmentation import PERMUTATION, draw_generator, latent_valid
from sdseg.data.pairs import DataError
from sdseg.data.sources import Source
from sdseg.imaging import replacing
from sdseg.model import encode_alpha, encode_image
from sdseg.targets import paint

CACHE_FORMAT = 1
SHARD_ENTRIES = 128  # 17 MB at 512 px
LOCK_FILE = ".lock"


class LatentSource:
    """Pairs encoded once, each in a fixed number of augmented variants: items hold latents, and with `keep_pixels` the
    mattes or class ids they come from.

    They are kept in memory, or with `directory` on disk, read through memory maps: the same values, bit for bit, since
    entry i is encoded in the same batch either way.
    """

    def __init__(
        self,
        pictures: Source,
        vae,
        variants: int,
        seed: int,
        device,
        progress,
        batch_size: int | None = None,
        keep_pixels: bool = False,
        directory: str | Path | None = None,
        place: int = 0,
        places: int = 1,
        colours: np.ndarray | None = None,
    ):
        """Encodes what is not on disk yet.

        Args:
            progress: wraps the iteration over shards, as tqdm does.
            batch_size: entries encoded together, a power of two up to SHARD_ENTRIES; by resolution if None.
            directory: of the caches; None keeps all in memory.
            colours: uint8 [classes, 3], that class ids are painted in.
            place, places: which process this is, of how many that begin at once; each begins elsewhere.

        Raises:
            DataError: a pair that cannot be read, or a directory that cannot be written.
        """
        self.pictures, self.variants = pictures, variants
        self._vae, self._seed, self._device = vae, seed, device
        self._batch_size = batch_size or encoded_together(pictures.resolution)
        self._colours = colours
        self._kept = ["image_latents", "matte_latents", "latent_valid"]
        if keep_pixels:
            self._kept += ["alpha" if colours is None else "classes", "valid"]
        self._entries = len(pictures) * variants
        count = -(-self._entries // SHARD_ENTRIES)
        if directory is None:
            shown = progress(range(count), desc="encoding pairs", unit="shard")
            self.shards = [self._encode(number) for number in shown]
            return
        described = cache_key(pictures, vae, variants, seed, keep_pixels, self._batch_size)
        if colours is not None:
            described["colours"] = colours.tolist()
        folder = Path(directory) / hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
        first = place * count // places
        walk = [(first + step) % count for step in range(count)]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / "cache.json") as partial:
                partial.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
            found = self._open_or_make(folder, progress(walk, desc="latent cache", unit="shard"))
        except OSError as error:
            raise DataError(
                f"latent_cache_dir {directory} cannot be used ({error.strerror or error}); make room, or name a folder "
                "you may write to"
            ) from error
        self.shards = [found[number] for number in range(count)]

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return self.pictures.name(index)

    def order(self, *key: int) -> torch.Tensor:
        return self.pictures.order(*key)

    def fetch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        variant = torch.randint(self.variants, (), generator=generator).item()
        number, row = divmod(index * self.variants + variant, SHARD_ENTRIES)
        return {key: values[row] for key, values in self.shards[number].items()}

    def _encode(self, number: int) -> dict[str, torch.Tensor]:
        """A shard: `image_latents`, `matte_latents` float32 [E, 4, h, w], `latent_valid` bool [E, 1, h, w], with
        `keep_pixels` also `alpha` float32 or `classes` int16, and `valid` bool [E, 1, H, W]."""
        parts = {key: [] for key in self._kept}
        last = min(self._entries, (number + 1) * SHARD_ENTRIES)
        for start in range(number * SHARD_ENTRIES, last, self._batch_size):
            entries = (divmod(e, self.variants) for e in range(start, min(last, start + self._batch_size)))
            fitted = [
                self.pictures.fetch(index, draw_generator(self._seed, PERMUTATION, index, variant))
                for index, variant in entries
            ]
            pixels = {key: torch.stack([item[key] for item in fitted]) for key in fitted[0]}
            encoded = encode_batch(pixels, self._vae, self._device, self._colours)
            for key in self._kept:
                parts[key].append(encoded[key].cpu())
        return {key: torch.cat(values) for key, values in parts.items()}

    def _open_or_make(self, folder: Path, walk) -> dict[int, dict[str, torch.Tensor]]:
        """Number -> shard. What another process is encoding is left to the end."""
        found, awaited = {}, []
        with open(folder / LOCK_FILE, "ab") as locks:
            for number in walk:
                if (shard := self._open(folder, number)) is None:
                    with locked(locks, number, wait=False) as mine:
                        if not mine:
                            awaited.append(number)
                            continue
                        shard = self._open_or_encode(folder, number)
                found[number] = shard
            for number in awaited:
                with locked(locks, number, wait=True):
                    found[number] = self._open_or_encode(folder, number)
        return found

    def _open_or_encode(self, folder: Path, number: int) -> dict[str, torch.Tensor]:
        """To be called with the shard's lock."""
        if (shard := self._open(folder, number)) is None:
            write_shard(folder / f"{number:05d}.safetensors", self._encode(number))
            shard = self._open(folder, number)
            assert shard is not None, f"{folder} shard {number} cannot be read after it was written"
        return shard

    def _open(self, folder: Path, number: int) -> dict[str, torch.Tensor] | None:
        entries = min(SHARD_ENTRIES, self._entries - number * SHARD_ENTRIES)
        return open_shard(folder / f"{number:05d}.safetensors", self._kept, entries)


def encoded_together(resolution: int) -> int:
    """How many pictures the VAE encodes at once: 64 up to 128 px, 4 at 512 px, where each takes about 0.5 GB."""
    fitting = min(64, max(1, 2**20 // resolution**2))
    return 1 << (fitting.bit_length() - 1)


def cache_key(pictures: Source, vae, variants: int, seed: int, keep_pixels: bool, batch_size: int) -> dict:
    """All that decides the values in a cache."""
    augmentation = pictures.augmentation
    return {
        "format": CACHE_FORMAT,
        "data": pictures.digest(),
        "vae": vae_digest(vae),
        "resolution": pictures.resolution,
        "random_flip": augmentation.random_flip,
        "min_crop_scale": augmentation.min_crop_scale,
        "variants": variants,
        "seed": seed,
        "keep_pixels": keep_pixels,
        "batch_size": batch_size,
    }


def vae_digest(vae) -> str:
    """A digest of the encoder's weights, their precision and the scaling factor."""
    digest = hashlib.sha256(f"{vae.config.scaling_factor} {vae.dtype}".encode())
    for name, value in sorted(vae.state_dict().items()):
        if not name.startswith(("decoder.", "post_quant_conv.")):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------- one shard


def write_shard(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a shard so that it is whole or absent, with a checksum in its metadata."""
    from safetensors.torch import save_file

    tensors = {key: value.contiguous() for key, value in tensors.items()}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"crc32": str(checksum(tensors))})


def open_shard(path: Path, keys: list[str], entries: int) -> dict[str, torch.Tensor] | None:
    """What `write_shard` wrote, mapped into memory; None where it is absent, damaged, or of another kind."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != set(keys):
                return None
            tensors = {key: file.get_tensor(key) for key in keys}
            written = (file.metadata() or {}).get("crc32")
    except (FileNotFoundError, SafetensorError):
        return None
    whole = all(len(value) == entries for value in tensors.values()) and written == str(checksum(tensors))
    return tensors if whole else None


def checksum(tensors: dict[str, torch.Tensor]) -> int:
    """CRC-32 of all values, in the order of their names."""
    value = 0
    for key in sorted(tensors):
        value = zlib.crc32(tensors[key].flatten().view(torch.uint8).numpy(), value)
    return value


@contextmanager
def locked(file, number: int, wait: bool) -> Iterator[bool]:
    """Holds byte `number` of an open file against other processes; gives False where another holds it, unless `wait`.

    On a file system without locks it gives True: shards may then be encoded twice, and are still whole.
    """
    import fcntl

    held = True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number, os.SEEK_SET)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            held = False
        elif error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    try:
        yield held
    finally:
        if held:
            try:
                fcntl.lockf(file, fcntl.LOCK_UN, 1, number, os.SEEK_SET)
            except OSError:
                pass


# ---------------------------------------------------------------------------------------------- one batch


def encode_batch(
    batch: dict[str, torch.Tensor], vae, device, colours: np.ndarray | None = None
) -> dict[str, torch.Tensor]:
    """A Batch of pixels and `image_latents`, `matte_latents` float32 [B, 4, h, w], `latent_valid` bool [B, 1, h, w].

    Where there are `classes` in place of `alpha`, they are painted in `colours`, uint8 [classes, 3].
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    batch = {key: values.to(device) for key, values in batch.items()}
    if "classes" in batch:
        matte_latents = encode_image(vae, paint(batch["classes"][:, 0], colours))
    else:
        matte_latents = encode_alpha(vae, batch["alpha"])
    return batch | {
        "image_latents": encode_image(vae, batch["image"]).float(),
        "matte_latents": matte_latents.float(),
        "latent_valid": latent_valid(batch["valid"], factor),
    }
