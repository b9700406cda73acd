"""Families of subjects. Each offers `Factors`, its table of ranges, and `build(rng, factors) -> Subject`."""

from synth_data.subjects import cloth, feathers, fur, glass, hair, lettering, own_meshes, smoke, solids

FAMILIES = {
    "fur": fur,
    "hair": hair,
    "feathers": feathers,
    "solids": solids,
    "lettering": lettering,
    "cloth": cloth,
    "glass": glass,
    "smoke": smoke,
    "own_meshes": own_meshes,
}
