"""Judges a folder of predictions against ground truth: `sdseg evaluate` and `python -m sdseg.evaluation`.

sdseg evaluate --prediction DIR --ground_truth DIR --output metrics.json
sdseg evaluate --prediction DIR --dataset NAME --data_dir DIR --output_dir DIR
"""

import argparse
import os
import sys
from pathlib import Path

from sdseg.errors import Parser, UserError, reported, steady_streams
from sdseg.evaluation.evaluate import judge, listed, open_evaluation
from sdseg.evaluation.judging import FIGURES, PROTOCOL_DEFINITIONS
from sdseg.targets import read_class_record


def read_class_names(path: Path) -> list[str]:
    """Class names by id, from a text file with one name in each line or from JSON {id: name}, as infer.py writes it.

    Raises:
        UserError: not a text file, or an empty one.
    """
    if path.suffix == ".json":
        return read_class_record(path)
    try:
        names = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not a text file; give the names of the classes, one in each line, class 0 first"
        ) from error
    while names and not names[-1].strip():
        names.pop()
    if not names:
        raise UserError(f"{path}: is empty; give the class names, one in each line, class 0 first")
    return [name.strip() for name in names]


def _class_names(number: int | None, file: Path | None) -> list[str] | None:
    if number is not None and file is not None:
        raise UserError("--num_classes and --classes exclude each other; give one of them")
    if number is not None and number < 1:
        raise UserError(f"--num_classes {number}: give at least 1")
    return read_class_names(file) if file is not None else None if number is None else [""] * number


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="sdseg evaluate", description="Judge a folder of predictions against ground truth.")
    group = parser.add_argument_group("what is judged")
    group.add_argument("--prediction", required=True, metavar="DIR", help="folder written by infer.py or a method")
    group.add_argument("--ground_truth", metavar="DIR", help="folder of truths with the same names")
    group.add_argument("--dataset", metavar="NAME", help="a benchmark set instead; sdseg sets list shows them")
    group.add_argument("--data_dir", metavar="DIR", help="folder of that set")
    group.add_argument("--split", help="part of that set (default: its first)")
    group.add_argument("--compare", metavar="DIR", help="a second method's folder, to compare with")
    group.add_argument("--images", metavar="DIR", help="photos, shown on the sheet of the worst pictures")
    group = parser.add_argument_group("how")
    group.add_argument("--kind", choices=FIGURES, help="default: that of the set, or matte")
    group.add_argument("--metrics", nargs="+", metavar="NAME", help="only these figures; conn is the slowest")
    group.add_argument("--trimap_dir", metavar="DIR", help="trimaps; their unknown band is judged separately")
    group.add_argument("--resize", action="store_true", help="resize predictions to the size of the truth")
    group.add_argument("--num_classes", type=int, metavar="N", help="kind classes: ids are 0 ... N-1")
    group.add_argument("--classes", type=Path, metavar="FILE", help="kind classes: names, one in each line, or .json")
    group.add_argument("--miou_protocol", choices=PROTOCOL_DEFINITIONS, default="standard")
    group.add_argument(
        "--match",
        choices=("none", "image", "dataset"),
        default="none",
        help="assign classes to the labels of a clustering",
    )
    group.add_argument("--void", type=int, default=255, help="id of pixels without a class (default: 255)")
    group.add_argument("--confidence", type=float, default=0.95, help="level of the intervals (default: 0.95)")
    group.add_argument("--resamples", type=int, default=10_000, help="draws of the bootstrap (default: 10000)")
    group.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    group.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one for each core)")
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output", nargs="+", type=Path, default=[], metavar="FILE",
        help="by suffix: .json, .csv (a line for each picture), .md, .html, .png (sheet of the worst pictures)",
    )  # fmt: skip
    group.add_argument("--output_dir", type=Path, metavar="DIR", help="folder for all five files")
    group.add_argument("--worst", type=int, default=12, metavar="N", help="pictures on the sheet (default: 12)")
    arguments = parser.parse_args(argv)
    return reported(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    from sdseg.evaluation.tables import check_outputs, table, write_outputs

    outputs = check_outputs(arguments.output, arguments.output_dir, arguments.worst)
    evaluation = open_evaluation(
        arguments.prediction,
        arguments.ground_truth,
        dataset=arguments.dataset,
        data_dir=arguments.data_dir,
        split=arguments.split,
        kind=arguments.kind,
        figures=arguments.metrics,
        images=arguments.images,
        trimap_dir=arguments.trimap_dir,
        classes=_class_names(arguments.num_classes, arguments.classes),
        miou_protocol=arguments.miou_protocol,
        match=None if arguments.match == "none" else arguments.match,
        void=arguments.void,
        compare=arguments.compare,
        resize=arguments.resize,
        confidence=arguments.confidence,
        resamples=arguments.resamples,
        seed=arguments.seed,
    )
    result = judge(evaluation, arguments.workers)
    write_outputs(outputs, result, evaluation, arguments.worst)
    print(table(result))
    if evaluation.unlisted:
        print(
            f"note: {len(evaluation.unlisted)} predictions are not listed in the run.json of their folder, so another "
            f"run made them: {listed(evaluation.unlisted)}",
            file=sys.stderr,
        )
    if ignored := sorted(str(path) for path in evaluation.stale if os.path.exists(path)):
        print(
            f"note: {len(ignored)} uncertainty maps of another run are not judged: {listed(ignored)}", file=sys.stderr
        )
    if unused := result["unused_predictions"]:
        print(f"note: {len(unused)} predictions have no ground truth: {listed(unused)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    steady_streams()
    sys.exit(main())
