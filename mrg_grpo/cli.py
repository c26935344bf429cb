"""`mrg-grpo`, the command line: reads arguments, calls one function, turns errors into exit codes.

0 done; 2 the user can mend it (one line, no traceback); 128 + signal when stopped by one; 1 a bug.
Heavy modules are imported inside the sub-commands, so that `--help` and a wrong key answer at once.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import sys
import time
import traceback
from pathlib import Path

from mrg_grpo import __version__
from mrg_grpo.errors import UserError
from mrg_grpo.files import require_folder


class Parser(argparse.ArgumentParser):
    def error(self, message: str):  # one line, as for any other bad input
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="mrg-grpo", description="GRPO for clinically aligned medical report generation.")
    top.add_argument("--version", action="version", version=f"mrg-grpo {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, text: str, config: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if config:
            sub.add_argument("config", metavar="CONFIG", help="a TOML file, for example experiments/phantom.toml")
            overrides(sub)
        return sub

    def overrides(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--set", dest="overrides", action="append", default=[], metavar="TABLE.KEY=VALUE", help="change one setting"
        )

    for name, text in (("train", "GRPO"), ("sft", "token-level warm start")):
        add(name, text).add_argument("--resume", action="store_true", help="go on from the last checkpoint")

    evaluate = add("evaluate", "decode a split, score it, write predictions.jsonl and evaluation.json")
    evaluate.add_argument("--adapter", help="a PEFT adapter; without it RUN_DIR/adapter, or the base if there is none")
    evaluate.add_argument("--base", action="store_true", help="the start policy, without RUN_DIR/adapter")
    evaluate.add_argument("--split", default="test")
    evaluate.add_argument("-o", "--output", help="folder for the two files; default is RUN_DIR/evaluate-SPLIT")

    add("check", "preflight before a long run: pass, warn or fail, and what to do")
    plan = add("plan", "memory and arithmetic of a run, before it; needs config.json, no weights")
    plan.add_argument("--gpu-gb", type=float, default=80.0, help="memory of the GPU in GB (1e9 bytes); default 80")
    plan.add_argument("--tflops", type=float, default=125.0, help="arithmetic reached, 1e12 FLOP/s; default 125")
    plan.add_argument("--bandwidth", type=float, default=1300.0, help="memory traffic reached, GB/s; default 1300")
    plan.add_argument("--images", type=float, help="images of a study, where the data set is not at hand")

    report = add("report", "write one report for your own X-ray", config=False)
    report.add_argument("images", nargs="+", metavar="IMAGE", help="PNG or JPG, the views of one study")
    report.add_argument("--config", help="model and prompt settings; default is the embedded policy")
    report.add_argument("--adapter", help="a PEFT adapter; without it that of the --config's run, if there is one")
    report.add_argument("--base", action="store_true", help="the start policy, without RUN_DIR/adapter")
    report.add_argument("--json", action="store_true", help="JSON instead of text")
    report.add_argument("--each", action="store_true", help="every image is a study of its own")
    overrides(report)

    label = add("label", "label reports with CheXbert, its CSV in and out", config=False)
    label.add_argument("reports", metavar="REPORTS.csv", help='a CSV with the column "Report Impression"')
    label.add_argument("-o", "--output", required=True, metavar="LABELS.csv")
    label.add_argument("--labeler", help="chexbert.pth or a folder of ours; default is the embedded labeler")
    label.add_argument("--tokenizer", help="folder or hub id; default bert-base-uncased")

    score = add("score", "score any system's prediction files", config=False)
    score.add_argument(
        "predictions", nargs="+", metavar="PREDICTIONS", help="csv, json or jsonl; two CSVs for CXR-Report-Metric"
    )
    score.add_argument("--labeler", help="chexbert.pth or a folder of ours; default is the embedded labeler")
    score.add_argument("--tokenizer", help="folder or hub id; default bert-base-uncased")
    score.add_argument("--compare", metavar="OTHER", help="a second system on the same studies: paired p-values")
    score.add_argument("--preset", help="r2gencmn, f1chexbert, promptmrg or cxrmate: print that code's numbers")
    score.add_argument(
        "--language", choices=("none", "raw", "r2gen", "r2gen_mimic"), default="raw", help="text for NLG metrics"
    )
    score.add_argument(
        "--metric", dest="metrics", action="append", default=[], metavar="PATH", help="a function of TRL's signature"
    )
    score.add_argument("--margin", type=float, help="m of MCCS, at least 0 and below 1; default 0.6")
    score.add_argument("--duplicates", choices=("error", "first", "last"), default="error")
    score.add_argument("-o", "--output", metavar="JSON", help="write every metric with its interval")

    view = add("view", "write one HTML page that shows a run", config=False)
    view.add_argument("run_dir", metavar="RUN_DIR", help="the run.output_dir of a run, done or still going on")
    view.add_argument("-o", "--output", metavar="HTML", help="default is RUN_DIR/page.html")
    view.add_argument(
        "--watch", action="store_true", help="write it anew while the run goes on; the page reloads itself"
    )
    view.add_argument("--plain", action="store_true", help="leave findings in texts uncoloured: needs no labeler")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments = parser().parse_args(argv)
    try:
        if {"WORLD_SIZE", "RANK"} <= os.environ.keys():
            return on_ranks(arguments)
        return run(arguments)
    except UserError as error:
        print(f"mrg-grpo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if arguments.command not in ("train", "sft"):
            return 0
        print("mrg-grpo: whoever read the output has ended, and so does the run; go on with --resume", file=sys.stderr)
        return 128 + signal.SIGPIPE


def run(arguments: argparse.Namespace) -> int:
    """One command; memory that is full is what the user can mend."""
    try:
        return COMMANDS[arguments.command](arguments)
    except Exception as error:
        full = memory_of(error)
        if not full:
            raise
        config, lower = getattr(arguments, "config", "CONFIG"), LOWER.get(arguments.command, "data.max_pixels")
        raise UserError(
            f"{full} is full ({(str(error).splitlines() or ['no more is left'])[0]}); lower {lower}; mrg-grpo plan "
            f"{shlex.quote(str(config))} says what fits"
        ) from error


def memory_of(error: Exception) -> str:
    """Which memory is full; "" of any other error. By name and words: not worth importing torch for."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's
        return "the GPU's memory"
    full = isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
    return "the main memory" if full else ""


def on_ranks(arguments: argparse.Namespace) -> int:
    """A command as one of the processes that torchrun has started: an error is said once, and ends this one at once."""
    from mrg_grpo import distributed

    distributed.init_process_group()
    try:
        if arguments.command not in ON_RANKS and distributed.world_size() > 1:
            raise UserError(f"{arguments.command} is for one process: start it without torchrun")
        code = run(arguments)
    except UserError as error:
        text = " ".join(str(error).split())
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


def run_train(arguments: argparse.Namespace) -> int:
    from mrg_grpo.config import load_config
    from mrg_grpo.train import train

    return train(load_config(arguments.config, arguments.overrides), resume=arguments.resume)


def run_sft(arguments: argparse.Namespace) -> int:
    from mrg_grpo.config import load_config
    from mrg_grpo.train import sft

    return sft(load_config(arguments.config, arguments.overrides), resume=arguments.resume)


def run_evaluate(arguments: argparse.Namespace) -> int:
    from mrg_grpo.config import load_config
    from mrg_grpo.evaluation.evaluate import evaluate_split
    from mrg_grpo.run.folder import holds_run

    config = load_config(arguments.config, arguments.overrides)
    output = Path(arguments.output or Path(config.run.output_dir) / f"evaluate-{arguments.split}")
    if holds_run(output):
        raise UserError(f"-o {output}: holds a run with an evaluation of its own; name another folder")
    evaluate_split(config, own_adapter(config, arguments), arguments.split, output)
    return 0


def own_adapter(config, arguments: argparse.Namespace) -> str | None:
    """--adapter, or RUN_DIR/adapter where there is one and --base does not ask for the start policy; it is named."""
    from mrg_grpo import distributed
    from mrg_grpo.run.folder import holds_run

    folder = Path(config.run.output_dir)
    own = folder / "adapter"
    if arguments.adapter or arguments.base:
        adapter = arguments.adapter
    elif own.is_dir():
        adapter = str(own)
    elif holds_run(folder):
        raise UserError(
            f"{folder}: holds a run without an adapter, so it has not ended; go on with --resume, or say --base for "
            "the policy it started from"
        )
    else:
        adapter = None
    if distributed.is_first():
        print(f"policy: {adapter or config.model.adapter or 'the base, without an adapter'}", file=sys.stderr)
    return adapter


def run_check(arguments: argparse.Namespace) -> int:
    from mrg_grpo.config import load_config
    from mrg_grpo.preflight.check import run_check as check

    return check(load_config(arguments.config, arguments.overrides))


def run_plan(arguments: argparse.Namespace) -> int:
    from mrg_grpo.config import load_config
    from mrg_grpo.preflight.footprint import Machine
    from mrg_grpo.preflight.plan import run_plan as plan

    for name in ("gpu_gb", "tflops", "bandwidth", "images"):
        value = getattr(arguments, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"--{name.replace('_', '-')} {value:g}: must be a number above 0")
    machine = Machine(arguments.gpu_gb, arguments.tflops, arguments.bandwidth)
    return plan(load_config(arguments.config, arguments.overrides), machine, arguments.images)


def run_report(arguments: argparse.Namespace) -> int:
    from mrg_grpo.config import Config, apply_override, check, load_config
    from mrg_grpo.evaluation.decode import report_images
    from mrg_grpo.toml import build

    adapter = arguments.adapter
    if arguments.config:
        config = load_config(arguments.config, arguments.overrides)
        adapter = own_adapter(config, arguments)
    else:
        tree: dict = {}
        for override in arguments.overrides:
            apply_override(tree, override)
        config = check(build(Config, tree, "--set"))
    groups = [[image] for image in arguments.images] if arguments.each else [arguments.images]
    report_images(config, adapter, groups, as_json=arguments.json)
    return 0


def run_label(arguments: argparse.Namespace) -> int:
    from mrg_grpo import distributed
    from mrg_grpo.labelers import load_labeler
    from mrg_grpo.labelers.csv_form import read_report_csv, write_label_csv

    require_folder(arguments.output)
    reports = read_report_csv(arguments.reports)
    labels = distributed.map_shares(load_labeler(arguments.labeler, arguments.tokenizer).label, reports)
    if distributed.is_first():
        write_label_csv(arguments.output, reports, labels)
    print(f"{len(reports)} reports labelled: {arguments.output}")
    return 0


def run_score(arguments: argparse.Namespace) -> int:
    from mrg_grpo.evaluation.score import run_score as score

    return score(
        arguments.predictions,
        labeler_path=arguments.labeler,
        tokenizer=arguments.tokenizer,
        output=arguments.output,
        preset=arguments.preset,
        compare=arguments.compare,
        language=arguments.language,
        duplicates=arguments.duplicates,
        metrics=arguments.metrics,
        margin=arguments.margin,
    )


def run_view(arguments: argparse.Namespace) -> int:
    from mrg_grpo.view import view

    view(arguments.run_dir, arguments.output, watching=arguments.watch, plain=arguments.plain)
    return 0


COMMANDS = {
    "train": run_train,
    "sft": run_sft,
    "evaluate": run_evaluate,
    "check": run_check,
    "plan": run_plan,
    "report": run_report,
    "label": run_label,
    "score": run_score,
    "view": run_view,
}
LOWER = {
    "train": "grpo.micro_batch, grpo.studies_per_step, sampling.batch, run.decode_batch or data.max_pixels",
    "check": "grpo.micro_batch, grpo.studies_per_step, sampling.batch, run.decode_batch or data.max_pixels",
    "sft": "sft.batch_size, run.decode_batch or data.max_pixels",
    "evaluate": "run.decode_batch or data.max_pixels",
}
"""What takes less memory of a GPU when it is lowered."""
ON_RANKS = ("train", "sft", "evaluate", "label")
"""Commands that torchrun may start on many ranks."""
