"""Materials and media for Mitsuba, and the emission of media, which Mitsuba 3.9 does not render."""

from typing import Any

import numpy as np

from synth_data.errors import UserError
from synth_data.subjects.meshes import Volume

KINDS = ("diffuse", "plastic", "metal", "principled", "translucent", "glass", "thin_glass")
FORWARD = 0.4  # mean cosine of scattering: forward as in smoke and mist, but less so, since paths end at max_depth


def colour(value: np.ndarray, nearest: bool = False) -> dict[str, Any]:
    """A linear spectrum [3] or texture [h, w, 3], or a plain texture [h, w], as Mitsuba's spectrum or bitmap."""
    import mitsuba as mi

    value = np.asarray(value)
    if value.ndim == 1:
        return {"type": "rgb", "value": value.tolist()}
    texture = value[..., None] if value.ndim == 2 else value
    return {
        "type": "bitmap",
        "bitmap": mi.Bitmap(np.ascontiguousarray(texture, dtype=np.float32)),
        "raw": True,
        "filter_type": "nearest" if nearest else "bilinear",
    }


def bsdf(material: dict[str, Any]) -> dict[str, Any]:
    """A mesh's material as Mitsuba's BSDF. UserError for an unknown `kind`.

    All kinds have `colour`, a linear [3] or texture [h, w, 3].
    - `diffuse`, `plastic`, `metal`, `principled`: opaque from both sides; `roughness` (all but diffuse) is the
      microfacet alpha, for principled its root.
    - `translucent`: a leaf, petal or paper; the share `transmission` in [0, 1] of the light passes through, diffusely.
    - `glass`: the boundary of a closed body; `colour` is the tint of one passage in and out, `ior` (1.5) the index
      inside, `exterior_ior` (1.0) outside, `roughness` (0: smooth) the microfacet alpha.
    - `thin_glass`: a sheet that does not refract; `colour` is the tint of one crossing, `ior` (1.5) sets its
      reflection, summed over all orders between its faces; `reflectance` (1) tints it, as on soap films.
    The first five may carry `opacity`, a texture [h, w] in [0, 1]: how much of the surface is present.
    """
    kind = material.get("kind")
    if kind not in KINDS:
        raise UserError(f"material: unknown kind '{kind}'; known: {', '.join(KINDS)}")
    base, rough = colour(material["colour"]), material.get("roughness", 0.3)
    if kind == "glass":
        # light crosses two boundaries, each of which applies the square root of the tint
        surface = {
            "type": "dielectric",
            "int_ior": float(material.get("ior", 1.5)),
            "ext_ior": float(material.get("exterior_ior", 1.0)),
            "specular_transmittance": colour(np.sqrt(material["colour"])),
        }
        if material.get("roughness", 0.0) > 0:
            surface |= {"type": "roughdielectric", "alpha": float(material["roughness"]), "distribution": "ggx"}
        return surface
    if kind == "thin_glass":
        ior = float(material.get("ior", 1.5))
        surface = {"type": "thindielectric", "int_ior": ior, "ext_ior": 1.0, "specular_transmittance": base}
        if "reflectance" in material:
            surface["specular_reflectance"] = colour(material["reflectance"])
        return surface
    if kind == "diffuse":
        surface = {"type": "diffuse", "reflectance": base}
    elif kind == "plastic":
        surface = {"type": "roughplastic", "diffuse_reflectance": base, "alpha": rough, "nonlinear": True}
    elif kind == "metal":
        surface = {"type": "roughconductor", "material": "none", "specular_reflectance": base, "alpha": rough}
    elif kind == "principled":
        surface = {
            "type": "principled",
            "base_color": base,
            "roughness": rough,
            "specular": 0.5,
            "sheen": 0.5,
            "clearcoat": 0.6,
            "clearcoat_gloss": 0.8,
        }
    else:
        surface = {
            "type": "principledthin",
            "base_color": base,
            "roughness": material.get("roughness", 0.5),
            "diff_trans": 2 * float(material["transmission"]),  # 2 in Mitsuba is full transmission
        }
    if kind != "translucent":
        surface = {"type": "twosided", "inner": surface}
    if "opacity" in material:
        surface = {"type": "mask", "opacity": colour(material["opacity"]), "inner": surface}
    return surface


def medium_shape(volume: Volume) -> dict[str, Any]:
    """A `Volume` as Mitsuba's box with an invisible surface and a heterogeneous medium inside.

    Needs a `volpath` integrator. Emission is not in it: see `emission_along_rays`.
    """
    import mitsuba as mi

    place = np.asarray(volume.to_world, dtype=np.float64)
    cube = np.array([[0.5, 0, 0, 0.5], [0, 0.5, 0, 0.5], [0, 0, 0.5, 0.5], [0, 0, 0, 1]])  # [-1, 1]^3 to [0, 1]^3
    density = np.ascontiguousarray(volume.density, dtype=np.float32)[..., None]
    return {
        "type": "cube",
        "to_world": mi.ScalarTransform4f((place @ cube).tolist()),
        "bsdf": {"type": "null"},
        "interior": {
            "type": "heterogeneous",
            "sigma_t": {
                "type": "gridvolume",
                "grid": mi.VolumeGrid(density),
                "to_world": mi.ScalarTransform4f(place.tolist()),
                "raw": True,
            },
            "albedo": {"type": "constvolume", "value": colour(volume.albedo)},
            "phase": {"type": "hg", "g": FORWARD},
        },
    }


def emission_along_rays(
    volume: Volume, origins: np.ndarray, directions: np.ndarray, steps: int, far: np.ndarray | float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """A volume's emission towards the rays' origins and its transmittance: (radiance [N, 3], transmittance [N]).

    L = integral of T(t) e(t) dt with T(t) = exp(-integral of sigma), along the unit `directions` [N, 3] from
    `origins` [N, 3] up to the distance `far` [N] (of an opaque surface). The way through the box has `steps` equal
    steps; sigma and e are taken at their midpoints and constant within a step, whose integral is exact.
    Voxels are placed as in Mitsuba's gridvolume: centres at (i + 0.5) / n, trilinear, clamped.
    """
    from scipy.ndimage import map_coordinates

    inverse = np.linalg.inv(volume.to_world)
    start = origins @ inverse[:3, :3].T + inverse[:3, 3]
    way = directions @ inverse[:3, :3].T
    way = np.where(np.abs(way) < 1e-12, 1e-12, way)
    crossings = np.stack([-start / way, (1 - start) / way])  # [2, N, 3], distances in the subject's units
    enter = np.maximum(crossings.min(0).max(-1), 0.0)
    leave = np.minimum(crossings.max(0).min(-1), far)
    piece = np.maximum(leave - enter, 0.0) / steps
    radiance, transmittance = np.zeros((len(origins), 3)), np.ones(len(origins))
    size = np.array(volume.density.shape[::-1])
    for k in range(steps):
        at = start + (enter + (k + 0.5) * piece)[:, None] * way
        index = (at * size - 0.5).T[::-1]  # [3, N] in z, y, x

        def look(grid: np.ndarray, index: np.ndarray = index) -> np.ndarray:
            return map_coordinates(grid, index, order=1, mode="nearest", output=np.float64)

        sigma = look(volume.density)
        through = np.exp(-sigma * piece)
        length = np.where(sigma * piece > 1e-6, (1 - through) / np.maximum(sigma, 1e-12), piece)
        if volume.emission is not None:
            emitted = np.stack([look(volume.emission[..., c]) for c in range(3)], -1)
            radiance += (transmittance * length)[:, None] * emitted
        transmittance *= through
    return radiance, transmittance
