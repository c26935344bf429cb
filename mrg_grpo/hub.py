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

from transformers.utils import logging as transformers_log
from transformers.utils.hub import (
    HfApi,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    constants,
    is_offline_mode,
)

from mrg_grpo.errors import UserError

SECONDS = 10.0
"""The hub is not there if it has not answered by then."""


def require_there(path: str, name: str, revision: str | None = None) -> None:
    """UserError, which calls it `name`, if `path` looks like a place on this machine and there is nothing, or is an id
    that the hub does not have. An id is a name, or org/name.

    Where the hub cannot be reached the libraries are told to look into their cache alone, for the rest of this process.
    """
    if os.path.exists(path):
        return
    first, *rest = path.replace(os.sep, "/").split("/")
    is_id = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", path, re.ASCII) and not (rest and os.path.exists(first))
    if not is_id:
        raise UserError(f"{name} {path}: no such file or folder; name one that is there, or a hub id (org/name)")
    ask_hub(path, name, revision)


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
