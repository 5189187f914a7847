"""Putting a finished folder on a hub: the Hugging Face hub, or a server of one's own (``HF_ENDPOINT``)."""

import os
from pathlib import Path
from typing import Literal

from mllmu.core.errors import EndpointError, one_line


def push(folder: Path, repository: str, *, kind: Literal["model", "dataset"], private: bool = True) -> str:
    """Upload a folder as one commit; the repository is made if there is none.

    Who may write there is said by the token of ``hf auth login`` or ``HF_TOKEN``, as for every tool of the hub.

    Args:
        folder: everything in it is uploaded.
        repository: ``owner/name``.
        kind: what the repository holds.
        private: a new repository is seen by its owner alone.

    Returns:
        The address of the commit.

    Raises:
        EndpointError: the hub cannot be reached or refuses; says so in its words.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        done = api.upload_folder(
            folder_path=folder, repo_id=repository, repo_type=kind, commit_message=f"Upload {folder.name}"
        )
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
        raise EndpointError(
            f"--push {repository}: {one_line(error)}. Nothing else was changed; {folder} is complete. Expected "
            f"owner/name at {api.endpoint}, and a token that may write there (hf auth login, or HF_TOKEN)."
        ) from None
    return str(done.commit_url)
