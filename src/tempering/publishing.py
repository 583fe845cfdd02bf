"""A learner on the hub: its folder, uploaded when that is asked for and never else."""

from __future__ import annotations

import tempfile

from tempering.errors import ModelError
from tempering.learner import Learner


def push(learner: Learner, repo_id: str, merge: bool = False, private: bool | None = None) -> str:
    """Save to a temporary folder and upload it; returns the repository's address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    with tempfile.TemporaryDirectory() as folder:
        learner.save_pretrained(folder, merge=merge)
        try:
            api = HfApi()
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder)
        except (OSError, HFValidationError) as error:  # a name that cannot be one is a ValueError there
            raise ModelError(
                f"push_to_hub {repo_id}: {str(error).splitlines()[0]}; log in with  hf auth login  and check the name"
            ) from None
    return str(address)
