from .evaluate import evaluate_folder
from .report import build_report, collect_rows

__all__ = ["build_report", "collect_rows", "evaluate_folder"]
