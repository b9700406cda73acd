from .one_call import matte
from .pipeline import MattingPipeline
from .session import MattingOutput, MattingSession

__all__ = ["MattingOutput", "MattingPipeline", "MattingSession", "matte"]
