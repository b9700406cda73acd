"""Families of subjects. Each offers `Factors`, its table of ranges, and `build(rng, factors) -> Subject`."""

from synth_data.subjects import fur, glass, smoke, solids

FAMILIES = {
    "fur": fur,
    "solids": solids,
    "glass": glass,
    "smoke": smoke,
}
