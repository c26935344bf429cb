"""The studies that a run could not show: RUN_DIR/left_out.jsonl, a line for each, and said once.

A picture that is damaged or gone ends no run: its study is left out of the step, or of the split that is decoded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import cached_property

from tqdm import tqdm

from mrg_grpo import distributed
from mrg_grpo.data.credentialed import banner
from mrg_grpo.data.records import first_names
from mrg_grpo.errors import ImageError
from mrg_grpo.run.folder import LEFT_OUT, RunFolder


class LeftOut:
    """Studies that have been left out of training or of an evaluation, by split."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    @cached_property
    def known(self) -> dict[str, list[str]]:
        """split -> study ids, as the file has them: read at the first call, when a resume has cut it."""
        path = self.run.path / LEFT_OUT
        known: dict[str, list[str]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            record = json.loads(line)
            known.setdefault(str(record.get("split")), []).append(str(record.get("study_id")))
        return known

    @distributed.first_only
    def note(self, step: int, split: str, unread: Mapping[str, ImageError]) -> None:
        """Log and name those that are new, at `step`."""
        known = self.known.setdefault(split, []) if unread else []
        for study in [study for study in unread if study not in known]:
            known.append(study)
            why = {"why": unread[study].what} if self.run.config.run.keep_text else {}
            self.run.append(
                LEFT_OUT, {"step": step, **banner(self.run.config), "split": split, "study_id": study, **why}
            )
            line = f"step {step}: study {study} of {split} is left out: {unread[study].what}"
            tqdm.write(line, file=sys.stderr)

    @distributed.first_only
    def tell(self) -> None:
        """At the end of a run: how many, and the first of them."""
        for split, studies in self.known.items():
            print(
                f"left out of {split}, as pictures could not be read: {len(studies):,} studies: {first_names(studies)}",
                file=sys.stderr,
            )
