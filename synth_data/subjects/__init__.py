"""Families of subjects. Each offers `Factors`, its table of ranges, and `build(rng, factors) -> Subject`."""

from synth_data.subjects import cloth, fur, glass, lettering, own_meshes, smoke, solids

FAMILIES = {
    "fur": fur,
    "solids": solids,
    "lettering": lettering,
    "cloth": cloth,
    "glass": glass,
    "smoke": smoke,
    "own_meshes": own_meshes,
}
