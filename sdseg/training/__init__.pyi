from .config import ConfigError, TrainingConfig, parse_training_config
from .loop import train

__all__ = ["ConfigError", "TrainingConfig", "parse_training_config", "train"]
