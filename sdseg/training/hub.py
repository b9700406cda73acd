"""Uploading a finished adapter to the Hugging Face Hub. The token is the one of `hf auth login`, never a setting."""

from pathlib import Path

from sdseg.errors import UserError, first_line
from sdseg.training.config import ConfigError, TrainingConfig


def check_hub(config: TrainingConfig) -> None:
    """Raises ConfigError, before training, if the adapter could not be uploaded afterwards."""
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # without a network the HTTP client raises errors that are no OSError
        raise ConfigError(
            f"push_to_hub is set, but the Hub does not know this user ({first_line(error)}); log in with "
            "`hf auth login`, or leave push_to_hub out"
        ) from error


def push(config: TrainingConfig, adapter: Path) -> str:
    """Upload the adapter folder to `hub_model_id`, which is created if it is missing; returns its address.

    Raises OSError where that fails; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    api, name = HfApi(), config.hub_model_id or Path(config.output_dir).name
    try:
        repository = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=repository.repo_id, folder_path=adapter, commit_message="Adapter trained with sdseg")
    except Exception as error:  # see above
        raise UserError(
            f"the adapter is finished in {adapter}, but could not be uploaded to {name} ({first_line(error)}); run the "
            "same command again"
        ) from error
    return str(repository)
