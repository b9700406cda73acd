from .pipeline import MattingOutput, MattingPipeline

__all__ = ["MattingOutput", "MattingPipeline"]
