from .inference import MattingOutput, MattingPipeline

__all__ = ["MattingOutput", "MattingPipeline"]
__version__: str
