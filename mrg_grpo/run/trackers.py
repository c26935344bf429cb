"""Trackers: where the numbers of a run go while it runs, beside its own files.

    run.report_to = ["tensorboard", "trackio", "wandb"]

Names are those of transformers and TRL: train/reward, eval/clinical_cosine, test/clinical_cosine, train/global_step for
the horizontal axis, and the table "completions" of sampled reports. So are the variables WANDB_PROJECT,
TRACKIO_PROJECT, WANDB_MODE and their like. Files of a tracker lie in the run's folder.

Deliberate choices:
* A tracker that cannot start ends the command before anything is loaded. One that fails later is warned of once and
  left out from then on; it never ends a run.
* Sampled reports of credentialed data, or with run.keep_text = false, are sent nowhere. Nor does wandb get the console,
  on which they appear, or the code.
* Steps that a resumed run takes again have the same numbers, so what has been sent is not sent twice. TensorBoard hides
  what it has of them, and gets them anew.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.credentialed import banner
from mrg_grpo.errors import UserError, first_line
from mrg_grpo.files import write_whole
from mrg_grpo.toml import to_toml

PROJECT = "mrg_grpo"
"""Where no variable names another one."""
STEP = "train/global_step"
WANDB_ID = "wandb_run_id"
"""File of the run's folder by which a resumed run is the same one for wandb."""


class Tracker(Protocol):
    """One of them, started. resumed: whether it goes on with what an earlier process has sent."""

    def begin(self, start: int) -> None:
        """Before the first step, which comes after `start`."""

    def scalars(self, values: dict[str, float], step: int) -> None: ...

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None: ...

    def close(self, failed: bool) -> None: ...


class TensorBoard:
    """Event files in RUN_DIR/tensorboard."""

    def __init__(self, config: Config, folder: Path, resumed: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = os.environ.get("TENSORBOARD_LOGGING_DIR") or str(folder / "tensorboard")
        self.writer = SummaryWriter(place)
        self.writer.add_text("args", "\n".join(f"    {line}" for line in to_toml(config).splitlines()))  # as code

    def begin(self, start: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        # TensorBoard hides what it has of this step and those behind it
        event = Event(step=start + 1, session_log=SessionLog(status=SessionLog.START))
        self.writer._get_file_writer().add_event(event, start + 1)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        text = ("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) for line in lines)
        self.writer.add_text(name, "\n".join(text), step)

    def close(self, failed: bool) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases, as `WANDB_MODE` says on line or off; files in RUN_DIR/wandb."""

    def __init__(self, config: Config, folder: Path, resumed: bool) -> None:
        import wandb

        path = folder / WANDB_ID
        if not (resumed and path.is_file()):
            write_whole(path, secrets.token_hex(4))
        self.module, self.run = wandb, wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", folder.resolve().name),
            id=path.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(folder),
            config=asdict(config),
            settings=wandb.Settings(console="off", save_code=False, disable_code=True, disable_git=True, silent=True),
        )  # fmt: skip
        self.run.define_metric(STEP)
        self.run.define_metric("*", step_metric=STEP, step_sync=True)
        off = self.run.offline
        print(f"wandb: {f'off line; to send it: wandb sync {Path(self.run.dir).parent}' if off else self.run.url}")

    def begin(self, start: int) -> None:
        """Nothing: the run's id says where it goes on."""

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.run.log({**values, STEP: step})

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        self.run.log({name: self.module.Table(columns=[*columns], data=rows), STEP: step})

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class Trackio:
    """Trackio, in RUN_DIR/trackio where TRACKIO_DIR names no other folder."""

    def __init__(self, config: Config, folder: Path, resumed: bool) -> None:
        place = os.environ.setdefault("TRACKIO_DIR", str(folder.resolve() / "trackio"))  # it is read at the import
        with contextlib.redirect_stdout(sys.stderr):
            import trackio

            self.project = os.environ.get("TRACKIO_PROJECT", PROJECT)
            self.module, self.run = trackio, trackio.init(
                project=self.project, name=folder.resolve().name, config=asdict(config), embed=False,
                resume="allow" if resumed else "never",
            )  # fmt: skip
        print(f"trackio: TRACKIO_DIR={place} trackio show --project {self.project}")

    def begin(self, start: int) -> None:
        """Nothing: the run's name says where it goes on."""

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.module.log({**values, STEP: step}, step=step)

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        self.module.log({name: self.module.Table(columns=columns, data=rows), STEP: step}, step=step)

    def close(self, failed: bool) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self.module.finish()


KINDS: dict[str, Callable[[Config, Path, bool], Tracker]] = {
    "tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb,
}  # fmt: skip


def trackers_of(config: Config) -> list[str]:
    """The names in run.report_to; UserError for one that is not installed."""
    names = list(dict.fromkeys(name for name in config.run.report_to if name != "none"))
    if "all" in names:
        return [name for name in KINDS if importlib.util.find_spec(name)]
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"run.report_to: the package {name} is not installed: pip install 'mrg_grpo[{name}]', or take {name} "
                "out of run.report_to"
            )
    return names


class Trackers:
    """All trackers of one run; as a context, they are closed at its end. Of many ranks the first has them."""

    def __init__(self, config: Config, folder: Path, resumed: bool) -> None:
        """Start them. UserError for one that cannot."""
        self.texts = config.run.keep_text and not banner(config)
        self.sent = last_step(folder / "metrics.jsonl")  # what an earlier process has sent
        self.trackers = dict[str, Tracker]()
        for name in trackers_of(config) if distributed.is_first() else []:
            try:
                self.trackers[name] = KINDS[name](config, folder, resumed)
            except Exception as error:  # of any library, and whatever it raises where it has no key or no network
                self.close(failed=True)
                why = first_line(error)
                raise UserError(f"run.report_to: {name} cannot start ({why}); mend that, or take it out") from error

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def begin(self, start: int) -> None:
        """Before the first step, which comes after `start`."""
        self.each(self.sent + 1, lambda tracker: tracker.begin(start))

    def each(self, step: int, call: Callable[[Tracker], None]) -> None:
        """`call` on each of them; one that fails is left out from then on."""
        for name, tracker in list(self.trackers.items()):
            if step <= self.sent and name != "tensorboard":
                continue
            try:
                call(tracker)
            except Exception as error:
                del self.trackers[name]
                tqdm.write(
                    f"run.report_to: {name} failed and gets no more of this run ({first_line(error)})", file=sys.stderr
                )

    def scalars(self, kind: str, values: dict[str, float], step: int) -> None:
        """kind: train, eval or test. What is not finite is left out."""
        finite = {f"{kind}/{name}": value for name, value in values.items() if math.isfinite(value)}
        self.each(step, lambda tracker: tracker.scalars(finite, step))

    def reports(self, step: int, groups: list[dict[str, Any]]) -> None:
        """The table "completions", from lines of rollouts.jsonl."""
        if not (self.texts and self.trackers and groups):
            return
        terms = list(groups[0]["samples"][0]["rewards"])
        columns = ["step", "study_id", "reference", "completion", *terms, "reward", "advantage"]
        rows = [
            [step, str(group["study_id"]), group["reference"], one["completion"],
             *(one["rewards"][name] for name in terms), one["reward"], one["advantage"]]
            for group in groups for one in group["samples"]
        ]  # fmt: skip
        self.each(step, lambda tracker: tracker.table("completions", columns, rows, step))

    def final(self, step: int, evaluation: dict[str, Any]) -> None:
        """The tables at the end of a run, from evaluation.json: test/... of the last adapter, and all as a table."""
        whole = next(iter(evaluation["sides"].values()))["metrics"]
        after = {name: row["after"]["value"] for name, row in whole.items() if row["after"]["value"] is not None}
        self.scalars("test", after, step)
        parts = ("value", "low", "high")
        columns = ["adapter", "studies", "metric", *(f"{side} {part}" for side in SIDES for part in parts)]
        rows = [
            [adapter, title, name, *(row[side][part] for side in SIDES for part in parts)]
            for adapter, tree in (("last", evaluation), ("best", evaluation.get("best", {})))
            for title, table in tree.get("sides", {}).items()
            for name, row in table["metrics"].items()
        ]
        self.each(step, lambda tracker: tracker.table("before_after", columns, rows, step))

    def close(self, failed: bool = False) -> None:
        """Wait until everything is written or sent."""
        self.each(self.sent + 1, lambda tracker: tracker.close(failed))
        self.trackers.clear()


SIDES = ("before", "after", "difference")


def last_step(metrics: Path) -> int:
    """The last step in a metrics.jsonl; 0 where there is none. A line that a kill has cut counts for nothing."""
    lines = metrics.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if metrics.is_file() else []
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return int(json.loads(line)["step"])
    return 0
