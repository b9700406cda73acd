"""Image mattes from Stable Diffusion 2 with LoRA adapters trained on rendered pictures alone; docs/architecture.md
walks through the package. Importing it loads no torch: names come from their modules when they are asked for.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
