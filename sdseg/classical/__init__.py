"""Mattes without learning, the baselines a trained model has to beat: `python -m sdseg.classical`."""
