"""Materials and media as Mitsuba sees them."""

from typing import Any

import numpy as np


def colour(value: np.ndarray, nearest: bool = False) -> dict[str, Any]:
    """A linear reflectance [3] or texture [h, w, 3] as Mitsuba's spectrum or bitmap."""
    import mitsuba as mi

    if value.ndim == 1:
        return {"type": "rgb", "value": value.tolist()}
    bitmap = mi.Bitmap(np.ascontiguousarray(value, dtype=np.float32))
    return {
        "type": "bitmap",
        "bitmap": bitmap,
        "raw": True,
        "filter_type": "nearest" if nearest else "bilinear",
    }


def bsdf(material: dict[str, Any]) -> dict[str, Any]:
    """A mesh material as Mitsuba's two-sided BSDF."""
    kind, base = material["kind"], colour(material["colour"])
    rough = material.get("roughness", 0.3)
    if kind == "diffuse":
        inner = {"type": "diffuse", "reflectance": base}
    elif kind == "plastic":
        inner = {"type": "roughplastic", "diffuse_reflectance": base, "alpha": rough, "nonlinear": True}
    elif kind == "metal":
        inner = {"type": "roughconductor", "material": "none", "specular_reflectance": base, "alpha": rough}
    elif kind == "principled":
        inner = {
            "type": "principled",
            "base_color": base,
            "roughness": rough,
            "specular": 0.5,
            "sheen": 0.5,
            "clearcoat": 0.6,
            "clearcoat_gloss": 0.8,
        }
    else:
        raise ValueError(f"unknown material '{kind}'")
    return {"type": "twosided", "inner": inner}
