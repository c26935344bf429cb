"""The commands of `mrg-grpo`: name, help, example, function and arguments of each, as data.

A function is imported when it is called, so that `--help` and a wrong key answer at once; its parameters are the
arguments by name, `config` a loaded configuration.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from mrg_grpo.errors import UserError
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
