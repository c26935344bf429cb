"""A run folder as training leaves it, written in a moment: phantom studies, reports of other studies as samples."""

import json
import shutil
from pathlib import Path

from mrg_grpo.config import Config
from mrg_grpo.data.phantom.dataset import load
from mrg_grpo.data.phantom.reader import read_labels
from mrg_grpo.labels import CONDITIONS
from mrg_grpo.toml import to_toml

HOSTILE = (
    "No effusion. <script>window.hacked = 1</script></script><!-- <img src=x onerror='window.hacked = 2'> & \ud800 𝕏"
)


def write_run(folder: Path, steps=6, studies=2, group=4, tests=5, every=1, hostile="", longer=1, **settings) -> Config:
    """settings: run_keep_text=False, data_form=... and so on. `hostile` is put into every text and name."""
    config = Config()
    config.run.output_dir, config.run.steps, config.grpo.group_size = str(folder), steps, group
    config.grpo.studies_per_step = studies
    for name, value in settings.items():
        table, _, key = name.partition("_")
        setattr(getattr(config, table), key, value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text("# run of train\n" + to_toml(config))
    pool = load(sizes={"train": steps * studies + group, "val": 2, "test": tests})
    lines(folder / "metrics.jsonl", [metrics(step) for step in range(1, steps + 1)])
    lines(folder / "validation.jsonl", [{"step": step, "studies": 2, "clinical_cosine": 0.5} for step in (2, 4)])
    lines(folder / "rollouts.jsonl", [
        rollout(pool["train"], step, n, studies, group, hostile, longer)
        for step in range(1, steps + 1, every) for n in range(studies)
    ])  # fmt: skip
    val, test = pool["val"], pool["test"]
    followed = [(step, i) for step in (0, 3, 6) for i in range(2)]
    lines(folder / "followed.jsonl", [{"step": s, **prediction(val[i], val[1 - i], hostile)} for s, i in followed])
    lines(folder / "predictions_before.jsonl", [prediction(x, test[i - 1], hostile) for i, x in enumerate(test)])
    lines(folder / "predictions.jsonl", [prediction(x, x, hostile) for x in test])
    number = {"value": 0.5, "low": 0.4, "high": 0.6}
    side = {"studies": tests, "metrics": {"clinical_cosine": {"before": number, "after": number, "difference": number}}}
    conditions = {name: {"before": 0.25, "after": 0.5} for name in CONDITIONS}
    evaluation = {"step": steps, "sides": {"test split": side}, "conditions": conditions}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return config


def best_of_step_4(folder):
    """A run whose best adapter is of step 4 of 6, judged beside the last."""
    write_run(folder)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    best = {"step": 4, "metric": "clinical_cosine", "value": 0.5, "sides": evaluation["sides"], "conditions": {}}
    (folder / "evaluation.json").write_text(json.dumps({**evaluation, "step": 6, "best": best}))
    shutil.copy(folder / "predictions.jsonl", folder / "predictions_best.jsonl")
    return folder


def metrics(step):
    return {"step": step, "reward": 0.1 * (step % 7), "kl": 0.0, "seconds/step": 1.5, "own.metric": float("nan")}


def rollout(pool, step, n, studies, group, hostile, longer):
    study = pool[(step - 1) * studies + n]
    samples = []
    for i in range(group):
        text = " ".join([pool[(step - 1) * studies + n + i].report] * longer) + (f" {hostile}" if hostile else "")
        reward = 1.0 - i / group
        samples.append({
            "completion": f"<think>{text}</think><report>{text}</report>" if i % 2 == 0 else f"<report>{text}",
            "labels": read_labels([text])[0].tolist(), "rewards": {"mccs": reward, "format": float("nan")},
            "reward": reward, "advantage": (group - 1) / 2 - i,
        })  # fmt: skip
    return {
        "step": step, "study_id": study.id, "images": list(study.images), "reference": study.report,
        "context": f"Context: Indication: cough {hostile}.",
        "reference_labels": list(study.labels), "samples": samples,
    }  # fmt: skip


def prediction(study, written_for, hostile):
    text = written_for.report + (f" {hostile}" if hostile else "")
    return {
        "study_id": study.id, "reference": study.report, "prediction": text, "generated": f"<report>{text}</report>",
        "think": "", "images": list(study.images), "compliant": False,
        "context": f"Context: Indication: cough {hostile}.", "labels": read_labels([text])[0].tolist(),
        "reference_labels": list(study.labels),
    }  # fmt: skip


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
