"""Fine-tune a matting adapter: `python train.py --config configs/….yaml [--learning_rate 1e-4 …]`.

On several processes: `accelerate launch train.py --config …` or `torchrun --nproc_per_node N train.py --config …`.
"""

import sys

from sdseg.errors import steady_streams
from sdseg.training.__main__ import main

if __name__ == "__main__":
    steady_streams()
    sys.exit(main(prog="train.py"))
