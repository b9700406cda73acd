"""The console script `sdseg WORD ...`: each word is handed to the module that does the work.

A module is imported only when its word is given, so `sdseg --help` answers at once. `python -m sdseg WORD ...` does the
same without the script.
"""

import sys
from importlib import import_module

from sdseg.errors import steady_streams

COMMANDS = {  # word -> (module with main(argv), what it does)
    "infer": ("sdseg.inference.__main__", "matte a photo or a folder of photos (infer.py)"),
    "train": (
        "sdseg.training.__main__",
        "fine-tune an adapter (train.py; many devices: accelerate launch train.py)",
    ),
    "doctor": ("sdseg.training.doctor", "check a training config's pairs; with --inference, the flags of infer"),
    "evaluate": ("sdseg.evaluation.__main__", "judge a folder of mattes against ground truth"),
    "calibrate": (
        "sdseg.evaluation.calibrate",
        "fit an adapter's uncertainty to mattes with known truths, and keep the scale in the adapter",
    ),
    "report": ("sdseg.evaluation.report", "one HTML page of mattes, worst first"),
    "sets": ("sdseg.evaluation.benchmark_sets.__main__", "the benchmark sets known by name: list, show, check, export"),
    "classical": ("sdseg.classical.__main__", "mattes by Otsu, GrabCut, k-means and other methods without training"),
    "render": ("synth_data.__main__", "render pictures with exact mattes from a recipe"),
    "preview": ("synth_data.__main__", "render a contact sheet of a recipe"),
    "inspect": ("synth_data.__main__", "counts, factors, mattes, duplicates and damage of a rendered data set"),
    "rerender": ("synth_data.__main__", "render one sample of a data set again and compare its bytes"),
    "join": ("synth_data.__main__", "put the shards of several hosts together"),
    "export": ("synth_data.__main__", "write a rendered data set as parquet or webdataset, and to the Hub"),
    "template": ("synth_data.__main__", "print a recipe with every factor, its default and its meaning"),
    "configs": ("sdseg.shipped", "list the shipped configs and recipes, or copy one to edit"),
    "demo": ("sdseg.demo", "render, fine-tune, infer and judge on this machine in about ten minutes"),
}


def main(argv: list[str] | None = None) -> int:
    """Returns the command's exit code; 2 for an unknown word."""
    from sdseg import __version__

    if argv is None:
        steady_streams()
        argv = sys.argv[1:]
    word, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if word in ("-h", "--help"):
        print("usage: sdseg COMMAND [ARGUMENTS]   (sdseg COMMAND --help lists the arguments)\n")
        for name, (_, purpose) in COMMANDS.items():
            print(f"  {name:10} {purpose}")
        print(f"\nsdseg {__version__}: image mattes from Stable Diffusion 2, with a map of where not to trust them")
        return 0
    if word == "--version":
        print(f"sdseg {__version__}")
        return 0
    if word not in COMMANDS:
        from sdseg.errors import did_you_mean

        hint = did_you_mean(word, COMMANDS) or f"; choose among {', '.join(COMMANDS)}"
        print(f"error: unknown command {word!r}{hint}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[word]
    if word == "doctor" and "--inference" in rest:
        module, rest = "sdseg.inference.doctor", [flag for flag in rest if flag != "--inference"]
    if module == "synth_data.__main__":
        rest = [word, *rest]
    return import_module(module).main(rest)


if __name__ == "__main__":
    sys.exit(main())
