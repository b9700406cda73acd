"""The rule for seeds of noise, which every command states alike."""

LARGEST_SEED = 2**32 - 1  # torch's generator on the CPU uses no more bits: 2^32 would be 0 again
