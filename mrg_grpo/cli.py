"""`mrg-grpo`, the command line: reads arguments, calls one function, turns errors into exit codes.

0 done; 2 the user can mend it (one line, no traceback); 128 + signal when stopped by one; 1 a bug.
A command is one entry of COMMANDS. Its function is imported when it is called, so that `--help` and a wrong key answer
at once; its parameters are the arguments by name, `config` a loaded configuration.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from mrg_grpo import __version__
from mrg_grpo.errors import UserError, first_line, one_line, visible
from mrg_grpo.files import at_home

PHANTOM_FORMS = ("phantom", "phantom_rare", "phantom_room", "phantom_hasty")

Argument = tuple[tuple[str, ...], dict[str, Any]]
"""What argparse's add_argument is given."""


def arg(*names: str, **options: Any) -> Argument:
    return names, options


@dataclass(frozen=True)
class Command:
    """One sub-command."""

    name: str
    help: str
    example: str
    function: str
    """module:function; it returns the exit code, or None for 0."""
    arguments: tuple[Argument, ...]
    on_ranks: bool = False
    """Whether torchrun may start it on many ranks."""
    lower: str = "data.max_pixels"
    """What takes less memory when it is lowered."""


def path(text: str) -> str:
    """An argument that is a path, ~ resolved: a shell leaves it as it is in quotes and behind an equals sign."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; name a file or folder")
    try:
        return at_home(text, "a path")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


SET = arg(
    "--set", dest="overrides", action="append", default=[], metavar="TABLE.KEY=VALUE", help="change one setting"
)  # fmt: skip
CONFIG = arg(
    "config", metavar="CONFIG", type=path, help="a TOML file, for example experiments/phantom.toml, or a run's folder"
)
RESUME = arg("--resume", action="store_true", help="continue from the last checkpoint")
BASE = arg("--base", action="store_true", help="the start policy, without RUN_DIR/adapter")
BEST = arg(
    "--best", action="store_true", help="the run's best adapter on validation, RUN_DIR/best_adapter, not its last"
)  # fmt: skip
LABELER = arg(
    "--labeler", dest="labeler_path", type=path,
    help="chexbert.pth, or a folder made by `make embedded-labeler`; default is the embedded labeler",
)  # fmt: skip
TOKENIZER = arg(
    "--tokenizer", type=path, help="folder or hub id of chexbert.pth's tokenizer; default bert-base-uncased"
)
COMPARE = arg(
    "--compare", action="append", default=[], metavar="OTHER", type=path,
    help="another system's prediction file on the same studies: paired p-values; may be given several times",
)  # fmt: skip
LANGUAGE = arg(
    "--language", choices=("none", "raw", "r2gen", "r2gen_mimic"), default="raw",
    help="form of the text for language metrics; default raw",
)  # fmt: skip
METRIC = arg(
    "--metric", dest="metrics", action="append", default=[], metavar="PATH",
    help="a metric of your own: the path of a function of TRL's signature",
)  # fmt: skip
COLUMNS = arg(
    "--columns", action="append", default=[], metavar="KEY=NAME",
    help="the column NAME holds KEY: id, reference or prediction; a path into JSON has dots; repeat it, or divide by "
    "commas. Of two files the reference is in the first, the prediction in the second; other files may have them",
)  # fmt: skip
STEP = "grpo.micro_batch, grpo.studies_per_step, sampling.batch, run.decode_batch or data.max_pixels"

TABLE = (
    Command(
        "plan", "estimate memory and time of a run from config.json, without weights",
        "plan experiments/iu_xray.toml --set model.path=experiments/huatuo_7b --gpu-gb 80",
        "mrg_grpo.preflight.plan:run_plan",
        (
            CONFIG, SET,
            arg("--gpu-gb", type=float, default=80.0, help="memory of the GPU, in GB of 1e9 bytes; default 80"),
            arg("--tflops", type=float, default=125.0, help="arithmetic it reaches, in 1e12 FLOP/s; default 125"),
            arg("--bandwidth", type=float, default=1300.0, help="memory traffic it reaches, in GB/s; default 1300"),
            arg("--images", type=float, help="images per study, where the data set is not at hand"),
            arg("--fit", action="store_true", help="print the fastest settings that fit this GPU, as TOML"),
        ),
    ),
    Command(
        "check", "preflight before a long run: pass, warn or fail, and what to do", "check experiments/phantom.toml",
        "mrg_grpo.preflight.check:run_check",
        (CONFIG, SET, arg("--images", action="store_true", help="decode every image file, not only its header")),
        lower=STEP,
    ),
    Command(
        "probe", "sample reports of the training studies and say which of them teach",
        "probe experiments/phantom.toml --share 0.1", "mrg_grpo.probe:run_probe",
        (
            CONFIG, SET,
            arg("--share", type=float, default=1.0, help="share of the training studies to probe; default 1, all"),
            arg("-o", "--output", type=path, default="", metavar="JSONL",
                help="the file to write, or to go on with; default is data.probe, or RUN_DIR-probe.jsonl"),
        ),
        on_ranks=True, lower="grpo.studies_per_step, sampling.batch or data.max_pixels",
    ),
    Command(
        "sft", "train a warm start, token by token", "sft experiments/phantom.toml --set run.output_dir=runs/warm",
        "mrg_grpo.train:sft", (CONFIG, SET, RESUME), on_ranks=True,
        lower="sft.batch_size, run.decode_batch or data.max_pixels",
    ),
    Command(
        "train", "train by GRPO", "train experiments/phantom.toml", "mrg_grpo.train:train", (CONFIG, SET, RESUME),
        on_ranks=True, lower=STEP,
    ),
    Command(
        "view", "write one HTML page that shows a run", "view runs/phantom", "mrg_grpo.view:view",
        (
            arg("run_dir", metavar="RUN_DIR", type=path, help="run.output_dir of a run, finished or still running"),
            arg("-o", "--output", type=path, metavar="HTML", help="the page to write; default is RUN_DIR/page.html"),
            arg("--watch", dest="watching", action="store_true",
                help="rewrite the page while the run goes on; it reloads itself"),
            arg("--plain", action="store_true", help="do not colour findings in texts, which needs a labeler"),
        ),
    ),
    Command(
        "evaluate", "decode a split, score it, write predictions.jsonl and evaluation.json",
        "evaluate runs/phantom --split val", "mrg_grpo.evaluation.evaluate:run_evaluate",
        (
            CONFIG, SET,
            arg("--adapter", type=path,
                help="a PEFT adapter; default is RUN_DIR/adapter, or the base if there is none"),
            BASE, BEST,
            arg("--split", default="test", help="train, val or test; default test"),
            COMPARE, LANGUAGE, METRIC,
            arg("-o", "--output", type=path, help="folder for the two files; default is RUN_DIR/evaluate-SPLIT"),
        ),
        on_ranks=True, lower="run.decode_batch or data.max_pixels",
    ),
    Command(
        "report", "write one report for your own X-ray", "report my_xray.png", "mrg_grpo.evaluation.report:run_report",
        (
            arg("images", nargs="+", metavar="IMAGE", type=path, help="PNG or JPG, the views of one study"),
            arg("--config", dest="config_path", type=path,
                help="model and prompt settings, or a run's folder; default is the embedded policy"),
            arg("--adapter", type=path, help="a PEFT adapter; default is that of the run in --config, if there is one"),
            BASE, BEST,
            arg("--json", dest="as_json", action="store_true", help="JSON instead of text"),
            arg("--each", action="store_true", help="take every image as a study of its own"),
            arg("--context", dest="known", action="append", default=[], metavar="NAME=TEXT",
                help="what is known, such as indication=cough, for a policy trained with prompt.context"),
            SET,
        ),
    ),
    Command(
        "export", "write a checkpoint with the adapter merged, or the adapter alone, with a model card",
        "export runs/phantom --to phantom_model", "mrg_grpo.export:run_export",
        (
            arg("run_dir", metavar="RUN", type=path, help="run.output_dir of a run"),
            arg("--to", required=True, type=path, metavar="FOLDER", help="the new folder to write"),
            arg("--dtype", choices=("bfloat16", "float32"), default="bfloat16",
                help="type of the stored weights; default bfloat16"),
            arg("--adapter-only", action="store_true", help="the adapter as PEFT loads it, without the base"),
            BEST,
            arg("--base-id", default="", metavar="ORG/NAME", help="the base on the hub, where the run had a folder"),
            arg("--push", metavar="ORG/NAME", help="upload the folder to this private repository of the hub"),
            arg("--lossy", action="store_true", help="store the weights even if rounding takes what was trained"),
            arg("--credentialed", action="store_true", help="with --push: the terms of the credentialed data allow it"),
            SET,
        ),
        lower="nothing, and take --set model.device=cpu or a machine with 5 bytes a parameter",
    ),
    Command(
        "score", "score any system's prediction files", "score predictions.csv --labeler chexbert.pth",
        "mrg_grpo.evaluation.score:run_score",
        (
            arg("paths", nargs="+", metavar="PREDICTIONS", type=path,
                help="one file with both sides, or references and then predictions"),
            COLUMNS,
            LABELER, TOKENIZER,
            COMPARE,
            arg("--preset", help="r2gencmn, f1chexbert, promptmrg or cxrmate: print that code's numbers"),
            LANGUAGE, METRIC,
            arg("--ratings", type=path, metavar="FILE", help="people's ratings of these reports"),
            arg("--margin", type=float, help="m of the metric mccs, at least 0 and below 1; default 0.6"),
            arg("--allow-unlabeled", action="store_true", help="continue where most references get no label"),
            arg("--duplicates", choices=("error", "first", "last"), default="error",
                help="which of the rows of one study counts; default error refuses them"),
            arg("-o", "--output", type=path, metavar="JSON", help="write every metric with its interval"),
        ),
    ),
    Command(
        "label", "label reports with CheXbert; reads and writes its CSV", "label reports.csv -o labels.csv",
        "mrg_grpo.labelers:run_label",
        (
            arg("reports_path", metavar="REPORTS.csv", type=path, help='a CSV with the column "Report Impression"'),
            arg("-o", "--output", type=path, required=True, metavar="LABELS.csv", help="the CSV of labels to write"),
            arg("--attributes", action="store_true", help="add columns for side and size"), LABELER, TOKENIZER,
        ),
        on_ranks=True,
    ),
    Command(
        "replay", "repeat a skipped step from the file that the run wrote",
        "replay runs/phantom/faults/step-000041.pt", "mrg_grpo.run.replay:run_replay",
        (
            arg("path", metavar="FILE", type=path, help="RUN_DIR/faults/step-*.pt"),
            arg("--trust", action="store_true", help="run code that the file names (rewards): for your own runs"),
        ),
    ),
    Command(
        "phantom", "write studies of the phantom data set as files, or print its label table",
        "phantom --export my_data --split train --count 100", "mrg_grpo.data.phantom.dataset:run_phantom",
        (
            arg("--export", dest="folder", metavar="DIR", type=path, help="write images, and a table of their reports"),
            arg("--split", choices=("train", "val", "test"), default="test", help="default test"),
            arg("--count", type=int, default=100, help="number of studies; default 100"),
            arg("--table", action="store_true", help="print the share of each label class in per cent"),
            arg("--form", choices=PHANTOM_FORMS, default="phantom", help="data set of the phantom; default phantom"),
        ),
    ),
)  # fmt: skip
COMMANDS = {command.name: command for command in TABLE}
"""By name, in the order in which a project uses them."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str):  # one line, as for any other bad input
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    wide = max(len(command.name) for command in TABLE) + 2
    lines = [f"  {c.name:<{wide}}{c.help}\n  {'':<{wide}}mrg-grpo {c.example}" for c in TABLE]
    top = Parser(
        prog="mrg-grpo",
        description="GRPO for clinically aligned medical report generation. The commands, each with an example:\n\n"
        + "\n".join(lines),
        epilog="mrg-grpo COMMAND --help lists the arguments of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"mrg-grpo {__version__}")
    subs = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in TABLE:
        sub = subs.add_parser(
            command.name, description=command.help, epilog=f"example: mrg-grpo {command.example}"
        )  # fmt: skip
        for names, options in command.arguments:
            sub.add_argument(*names, **options)
    return top


class Shown:
    """A stream of the process on which texts from outside cannot steer a terminal, nor end a command that it cannot
    write: see `errors.visible`. Everything that a command prints goes through one."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        bare = text.strip("\r")  # a progress bar begins with a return, and ends with one where it is cleared
        left = len(text) - len(text.lstrip("\r"))
        whole = text[:left] + visible(bare, self.stream.encoding or "utf-8") + text[left + len(bare) :]
        self.stream.write(whole)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def shown_streams() -> Iterator[None]:
    """Within: standard output and standard error are `Shown`; either may be closed."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and Shown(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    with shown_streams():
        return command_line(argv)


def command_line(argv: list[str] | None) -> int:
    """Arguments -> exit code, with the streams as `main` has set them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    values = vars(parser().parse_args(argv))
    command = COMMANDS[values.pop("command")]
    try:
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            return run_on_ranks(command, values)
        code = run(command, values)
        if sys.stdout:
            sys.stdout.flush()  # what does not fit is said here, not at the interpreter's end
        return code
    except UserError as error:
        print(f"mrg-grpo: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if command.name not in ("train", "sft"):
            return 0
        print("mrg-grpo: whoever read the output has ended, and so does the run; go on with --resume", file=sys.stderr)
        return 128 + signal.SIGPIPE
    except OSError as error:  # of a file it has a name, and is a UserError by then
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT) or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"mrg-grpo: standard output cannot be written ({error.strerror}); send it elsewhere", file=sys.stderr)
        return 2


def run(command: Command, values: dict[str, Any]) -> int:
    """One command; memory that is full is what the user can mend."""
    try:
        return call(command, values)
    except Exception as error:
        full = memory_of(error)
        if not full:
            raise
        config = values.get("config", "CONFIG")
        raise UserError(
            f"{full} is full ({first_line(error)}); lower {command.lower}; mrg-grpo plan {shlex.quote(str(config))} "
            "says what fits"
        ) from error


def call(command: Command, values: dict[str, Any]) -> int:
    """The command's function with its arguments by name."""
    values = dict(values)
    if "config" in values:
        from mrg_grpo.config import load_config

        values["config"] = load_config(values["config"], values.pop("overrides"))
    module, _, name = command.function.partition(":")
    return getattr(importlib.import_module(module), name)(**values) or 0


def memory_of(error: Exception) -> str:
    """Which memory is full; "" of any other error. By name and words: not worth importing torch for."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's
        return "the GPU's memory"
    full = isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
    return "the main memory" if full else ""


def run_on_ranks(command: Command, values: dict[str, Any]) -> int:
    """A command as one of the processes that torchrun has started: an error is said once, and ends this one at once."""
    from mrg_grpo import distributed

    distributed.launched()
    if not command.on_ranks and os.environ["WORLD_SIZE"] != "1":  # before it waits for the others
        if os.environ["RANK"] == "0":
            print(f"mrg-grpo: {command.name} is for one process: start it without torchrun", file=sys.stderr)
        return 2
    distributed.init_process_group()
    try:
        code = run(command, values)
    except UserError as error:
        text = one_line(error)
        if distributed.first_to_say(text):
            print(f"mrg-grpo: rank {distributed.rank()}: {text}", file=sys.stderr, flush=True)
        if isinstance(error, distributed.PeerLostError):
            time.sleep(1.0)  # torchrun calls the first that ends the root cause: let it be the other
        distributed.fail(2)
    except Exception:  # a bug: the others must see the end of this rank at once all the same
        traceback.print_exc()
        distributed.fail(1)
    distributed.destroy_process_group()
    return code
