"""What the libraries that load a base, an adapter or a tokenizer are kept from: long waits, and much talk.

A path is a place on this machine, or an id of the hub. Libraries take a mistyped folder for an id, and where the hub
cannot be reached they try for half a minute a file, of a checkpoint that lies in the cache too. So the hub is asked
here, once, before they do.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging as transformers_log
from transformers.utils.hub import (
    HfApi,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    constants,
    is_offline_mode,
)

from mrg_grpo.errors import UserError, first_line

SECONDS = 10.0
"""The hub is not there if it has not answered by then."""


def require_there(path: str, name: str, revision: str | None = None) -> None:
    """UserError, which calls it `name`, if `path` looks like a place on this machine and there is nothing, or is an id
    that the hub does not have. An id is a name, or org/name.

    Where the hub cannot be reached the libraries are told to look into their cache alone, for the rest of this process.
    """
    if os.path.exists(path):
        return
    if not is_hub_id(path):
        raise UserError(f"{name} {path}: no such file or folder; name one that is there, or a hub id (org/name)")
    ask_hub(path, name, revision)


def is_hub_id(path: str) -> bool:
    """Whether this looks like a name on the hub, or org/name, and not like a place on this machine."""
    first, *rest = path.replace(os.sep, "/").split("/")
    named = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", path, re.ASCII)
    return bool(named) and not os.path.exists(path) and not (rest and os.path.exists(first))


def upload(folder: Path, repository: str) -> str:
    """Put a folder into a private repository of the hub, made where it is not there; its address.

    UserError where that fails, and for one that everybody can read: who wants that makes it public there.
    """
    hub = HfApi()
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        if not hub.model_info(repository).private:
            raise UserError(f"--push {repository}: is public; name another repository, or make it private first")
        hub.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="mrg-grpo export")
    except UserError:
        raise
    except Exception as error:  # of several libraries: no network, no login, no right to write there
        raise UserError(
            f"--push {repository}: {first_line(error)}; the export lies in {folder}, and hf auth login and hf upload "
            "put it there too"
        ) from error
    return f"https://huggingface.co/{repository}"


def ask_hub(path: str, name: str, revision: str | None) -> None:
    """One request, without a second try: whether the hub has this id and is there at all."""
    if is_offline_mode():
        return
    try:
        HfApi().model_info(path, revision=revision, timeout=SECONDS)
    except RevisionNotFoundError as error:
        raise UserError(f"{name} {path}: the hub has it, but no revision {revision}; name one that it has") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name} {path}: no such file or folder, and the hub has no such model, or does not show it to you; mend "
            "the name, or log in with: hf auth login"
        ) from error
    except HfHubHTTPError:  # it is there and has trouble of its own: the download says which
        return
    except Exception:  # no network, a refused connection, a certificate of somebody else: from any of several libraries
        constants.HF_HUB_OFFLINE = True


@contextmanager
def quiet() -> Iterator[None]:
    """Within: no bars, reports and warnings of the libraries, which would stand before the one line of a refusal."""
    before, bars = transformers_log.get_verbosity(), transformers_log.is_progress_bar_enabled()
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # what we refuse ourselves, in one line
            yield
    finally:
        transformers_log.set_verbosity(before)
        if bars:
            transformers_log.enable_progress_bar()
