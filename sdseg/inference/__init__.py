"""Photos and an adapter in, mattes with their uncertainty out: the pipeline, and whole folders of photos."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
