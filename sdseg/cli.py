"""The console script `sdseg`: one word, handed to the module that does the work.

Modules are imported only when their word is given, so `sdseg --help` answers at once.
"""

import sys
from importlib import import_module

COMMANDS = {  # word -> (module with main(argv), what it does)
    "train": ("sdseg.training", "fine-tune an adapter (train.py; `accelerate launch train.py` for many devices)"),
    "doctor": ("sdseg.doctor", "look over the pairs that a training config names, before anything is trained"),
    "infer": ("sdseg.inference", "matte a photo or a folder of photos (infer.py)"),
    "evaluate": ("sdseg.evaluate", "judge a folder of mattes against ground truth"),
    "report": ("sdseg.report", "one HTML page of mattes, worst first"),
}


def main(argv: list[str] | None = None) -> int:
    """Returns the command's exit code; 2 for an unknown word."""
    from sdseg import __version__

    argv = sys.argv[1:] if argv is None else argv
    word, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if word in ("-h", "--help"):
        print("usage: sdseg COMMAND [ARGUMENTS]   (sdseg COMMAND --help tells the arguments)\n")
        for name, (_, purpose) in COMMANDS.items():
            print(f"  {name:10} {purpose}")
        print(f"\nsdseg {__version__}: image mattes from Stable Diffusion 2, with a map of where not to trust them")
        return 0
    if word == "--version":
        print(f"sdseg {__version__}")
        return 0
    if word not in COMMANDS:
        print(f"error: unknown command {word!r}; choose among {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[word]
    return import_module(module).main(rest) or 0


if __name__ == "__main__":
    sys.exit(main())
