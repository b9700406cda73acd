"""Families of subjects. Each offers `Factors`, its table of ranges, and `build(rng, factors) -> Subject`."""

from synth_data.subjects import (
    cloth,
    feathers,
    foliage,
    fur,
    glass,
    hair,
    lattice,
    lettering,
    own_meshes,
    smoke,
    solids,
    wires,
)

FAMILIES = {
    "fur": fur,
    "hair": hair,
    "feathers": feathers,
    "foliage": foliage,
    "lattice": lattice,
    "wires": wires,
    "solids": solids,
    "lettering": lettering,
    "cloth": cloth,
    "glass": glass,
    "smoke": smoke,
    "own_meshes": own_meshes,
}
