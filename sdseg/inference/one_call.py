"""`sdseg.matte`: the matte of whatever it is given, as the same kind of thing."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sdseg.errors import UserError
from sdseg.imaging import Encoded, read_image, write_alpha, write_classes
from sdseg.model import EMBEDDED

if TYPE_CHECKING:
    from PIL import Image

    from sdseg.inference.session import MattingSession

MATTE_SUFFIX = ".matte.png"
T = TypeVar("T")


def matte(
    image: T,
    *,
    session: MattingSession | None = None,
    adapter: str | Path = EMBEDDED,
    base: str | Path | None = None,
    output: str | Path | None = None,
    seed: int = 0,
    **settings: Any,
) -> T:
    """The alpha matte of a picture, as the type it came in; of a list, a list.

    | image | what is returned |
    |---|---|
    | bytes of a picture file | bytes of a 16-bit grey PNG |
    | PIL image | PIL image of mode L, for `putalpha` of the image as `ImageOps.exif_transpose` turns it upright |
    | array [H, W, 3] or [H, W], tensor [3, H, W] or [H, W]; uint8, or floats in [0, 1] | float32 [H, W] in [0, 1] |
    | a batch of these, [N, ...] | float32 [N, H, W] |
    | path | the path of a 16-bit grey PNG: `output`, or beside `photo.jpg` `photo.jpg.matte.png` |

    The same photo and seed give the same matte as `infer.py`. Of target classes the values are ids.

    Args:
        session: keeps a model in memory; None loads `adapter` on `base`, or takes that of the call before.
        adapter: folder or Hub id; the miniature that ships with sdseg by default.
        base: folder or Hub id; None is the one that the adapter names.
        seed: of the starting noise of every picture.
        settings: of `MattingSession.__call__`: num_inference_steps, ensemble_size, processing_resolution, ...

    Raises:
        UserError: a picture, or a setting, that cannot be served.
    """
    import torch

    if isinstance(image, (list, tuple)):
        if output is not None:
            raise UserError("output names one file, and a list of pictures was given; call matte for each")
        return [matte(one, session=session, adapter=adapter, base=base, seed=seed, **settings) for one in image]
    if output is not None and not isinstance(image, (str, Path)):
        raise UserError(f"output is for a picture given by its path, and a {type(image).__name__} was given")
    path = _place(image, output)
    session = session or _session(str(adapter), None if base is None else str(base))
    picture = read_image(Encoded("the picture given as bytes", bytes(image))) if is_bytes(image) else image
    batch = image.ndim == 4 if isinstance(image, (np.ndarray, torch.Tensor)) else False
    generator = [torch.Generator("cpu").manual_seed(seed) for _ in range(len(image) if batch else 1)]
    output_type = "pt" if isinstance(image, torch.Tensor) else "np"
    found = session(picture, generator=generator, output_type=output_type, **settings).prediction
    if isinstance(image, (np.ndarray, torch.Tensor)):
        stack = torch.stack if isinstance(image, torch.Tensor) else np.stack
        return stack(found) if batch else found[0]
    return _like(image, found[0], session, path)


def is_bytes(image: object) -> bool:
    return isinstance(image, (bytes, bytearray, memoryview))


@lru_cache(maxsize=1)
def _session(adapter: str, base: str | None) -> MattingSession:
    import torch

    from sdseg.inference.session import MattingSession

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return MattingSession.from_adapter(adapter, base, device=device)


def _place(image: object, output: str | Path | None) -> Path | None:
    """Where the matte of a path goes; raises UserError where it would replace the photo or is no PNG."""
    if not isinstance(image, (str, Path)):
        return None
    path = Path(image).with_name(Path(image).name + MATTE_SUFFIX) if output is None else Path(output)
    if path.suffix.lower() != ".png" or path.resolve() == Path(image).resolve():
        raise UserError(f"output {path}: mattes are PNG files beside their photos; name another file that ends in .png")
    return path


def _like(image: object, drawn: np.ndarray, session: MattingSession, path: Path | None):
    """A matte float32 [H, W], or ids uint8 [H, W], as the type of `image`."""
    if path is not None:
        _write(path, drawn, session)
        return str(path) if isinstance(image, str) else path
    if is_bytes(image):
        content = io.BytesIO()
        _picture(drawn, session, bits=16).save(content, format="PNG")
        return content.getvalue()
    return _picture(drawn, session, bits=8)


def _write(path: Path, drawn: np.ndarray, session: MattingSession) -> None:
    if session.colours is None:
        write_alpha(path, drawn)
    else:
        write_classes(path, drawn, session.colours)


def _picture(drawn: np.ndarray, session: MattingSession, bits: int) -> Image.Image:
    from PIL import Image

    if session.colours is not None:
        return Image.fromarray(drawn)
    levels = np.rint(drawn.astype(np.float64) * (2**bits - 1))
    return Image.fromarray(levels.astype(np.uint16 if bits == 16 else np.uint8))
