"""Uploading a finished adapter to the Hugging Face Hub. The token is the one of `hf auth login`, never a setting."""

from pathlib import Path

from sdseg.config import ConfigError, TrainingConfig


def check_hub(config: TrainingConfig) -> None:
    """Raises ConfigError before training where the adapter could not be uploaded after it."""
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"push_to_hub is set, but the Hub does not know this user ({str(error).splitlines()[0]}); log in with "
            "`hf auth login`, or leave push_to_hub out"
        ) from error


def push(config: TrainingConfig, adapter: Path) -> str:
    """Upload the adapter folder to `hub_model_id`, which is made where it is missing; returns its address."""
    from huggingface_hub import HfApi

    api = HfApi()
    repository = api.create_repo(config.hub_model_id or Path(config.output_dir).name, exist_ok=True)
    api.upload_folder(repo_id=repository.repo_id, folder_path=adapter, commit_message="Adapter trained with sdseg")
    return str(repository)
