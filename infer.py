"""Alpha mattes and uncertainty maps of a photo or a folder of photos.

python infer.py --adapter DIR --input PHOTO_OR_FOLDER --output FOLDER
accelerate launch infer.py ...                       splits the folder among processes
"""

import sys

from sdseg.errors import steady_streams
from sdseg.inference.__main__ import main

if __name__ == "__main__":
    steady_streams()
    sys.exit(main(prog="infer.py"))
