from .inference import MattingOutput, MattingPipeline, MattingSession, matte

__all__ = ["MattingOutput", "MattingPipeline", "MattingSession", "matte"]
__version__: str
