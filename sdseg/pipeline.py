"""`from sdseg.pipeline import MattingPipeline`, as scripts for sdseg 0.1 say; the class is in `sdseg.inference`."""

from sdseg.inference.pipeline import MattingPipeline

__all__ = ["MattingPipeline"]
