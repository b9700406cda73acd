"""Renders pairs of a picture and its exact alpha matte, from a recipe, a seed and an index."""
