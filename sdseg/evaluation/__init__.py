"""Output folders and ground truth in, metrics, tables and pages out; any method's folder, sdseg's own or another's."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
