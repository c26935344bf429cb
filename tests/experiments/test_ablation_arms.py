"""Arms about the reward: the task term alone differs, whatever configuration they change, and the page says so."""

import argparse
import sys

import pytest

from experiments.ablations import ablate_format, ablate_rewards, ablation, ablation_command
from experiments.ablations.ablation import Arm, Bench, arm_weights
from experiments.ablations.ablation_command import bench_of, own_arm
from experiments.ablations.ablation_results import control_of, results_of
from experiments.ablations.ablation_tables import setting_table
from mrg_grpo.config import load_config
from mrg_grpo.errors import UserError

OWN = """include = "{root}/experiments/phantom.toml"
[reward.weights]
mccs = 0.6
format = 0.2
"own_reward_for_test:f" = 0.2
[reward.mccs]
margin = 0.3
"""


@pytest.fixture
def own(tmp_path, request):
    path = tmp_path / "my.toml"
    path.write_text(OWN.format(root=request.config.rootpath))
    return Bench(ablate_rewards.EXPERIMENT, config=str(path))


def test_only_the_task_term_differs_with_a_configuration_of_ones_own(own):
    def weights(arm):
        return load_config(own.config, own.settings(own.experiment.arm(arm), 0)).reward.weights

    others = {"format": 0.2, "own_reward_for_test:f": 0.2}
    assert weights("mccs") == {"mccs": 0.6, **others} and weights("ce_f1") == {"ce_f1": 0.6, **others}
    assert weights("nlg") == {"bleu": 0.3, "rouge_l": 0.3, **others} and weights("format-only") == others
    trained = [arm for arm in own.experiment.arms if arm.command == "train"]
    assert {round(sum(weights(arm.name).values()), 9) for arm in trained if arm.task} == {1.0}
    assert own.title(own.experiment.arm("mccs")) == "GRPO, MCCS (margin 0.3)"
    assert own.title(own.experiment.arm("mccs-0.2")) == "GRPO, MCCS (margin 0.2)"


def test_a_task_of_two_terms_is_replaced_whole_and_none_is_refused():
    arm = Arm("ce_f1", "CE-F1", task=("ce_f1",))
    assert arm_weights({"mccs": 0.5, "bleu": 0.25, "format": 0.25}, arm) == {"ce_f1": 0.75, "format": 0.25}
    without = ablate_format.EXPERIMENT.arm("ce_f1-no-format")
    assert arm_weights({"mccs": 0.75, "format": 0.25, "a:f": 0.1}, without) == {"ce_f1": 0.75, "a:f": 0.1}
    with pytest.raises(UserError, match=r"none of mccs, .* has a weight, which ce_f1 would take over"):
        arm_weights({"a:f": 1.0}, arm)


def test_an_arm_of_ones_own_reward_needs_no_script(tmp_path, monkeypatch):
    (tmp_path / "own_term_for_test.py").write_text("def f(reports): return [0.0] * len(reports)\n")
    monkeypatch.syspath_prepend(tmp_path)
    arm = own_arm("mine=own_term_for_test:f")
    assert arm.name == "mine" and arm_weights({"mccs": 0.75, "format": 0.25}, arm) == {
        "own_term_for_test:f": 0.75, "format": 0.25,
    }  # fmt: skip
    for text, words in (
        ("mine", "write it as name=term"),
        ("a b=ccs", "write it as"),
        ("mine=nowhere", "unknown term"),
    ):
        with pytest.raises(UserError, match=words):
            own_arm(text)
    arguments = argparse.Namespace(quick=False, set=[], config=ablation.CONFIG, out=None, own=["mine=ccs"])
    assert bench_of(ablate_rewards.EXPERIMENT, arguments).page.parts[:1] == ("runs",)  # not on the project's page
    ran = []
    monkeypatch.setattr(ablation_command, "run_all", lambda bench, pairs, jobs: ran.extend(a.name for a, _ in pairs))
    monkeypatch.setattr(ablation_command, "write_page", lambda bench: None)
    words = ["ablate_rewards.py", "--arm", "mine=own_term_for_test:f", "--quick", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    ablation_command.main(ablate_rewards.EXPERIMENT)
    assert ran == [*ablate_rewards.EXPERIMENT.quick, "mine"]


def test_no_validation_stays_none(own, monkeypatch, tmp_path):
    bench = Bench(ablate_rewards.EXPERIMENT, ("run.eval_every=0",), runs=tmp_path / "r", results=tmp_path / "k")
    given = []
    monkeypatch.setattr(ablation, "carry_out", lambda bench, arm, seed, settings: given.extend(settings) or "")
    monkeypatch.setattr(ablation, "record_of", lambda folder, command, config: {})
    ablation.run_arm(bench, bench.experiment.arm("mccs"), 0)
    assert [setting for setting in given if "eval_every" in setting][-1] == "run.eval_every=0"


def test_output_of_arms_side_by_side_names_the_arm(capfd):
    with pytest.raises(SystemExit):
        ablation.call(["no-such-command"], "mccs-seed0")
    assert capfd.readouterr().out.startswith("mccs-seed0: mrg-grpo: ")


def test_the_page_prints_every_difference():
    bench = Bench(ablate_rewards.EXPERIMENT)
    results = results_of(bench)
    table = {
        line.split(" | ")[0].removeprefix("| "): line for line in setting_table(results, control_of(bench, results))
    }
    assert "| 0.75 mccs + 0.25 format | 0.6 | - |" in table["GRPO, MCCS (margin 0.6)"]
    assert "| 0.75 ce_f1 + 0.25 format | - | - |" in table["GRPO, CE-F1"]
    assert "| 0.6 | reward.mccs.weighting = rarity |" in table["GRPO, rarity MCCS (margin 0.6)"]
    assert (
        "token-level; sft.batch_size = 8; sft.learning_rate = 0.001" in table["token-level, same studies, GRPO's rate"]
    )
    assert len(table) == 2 + len(ablate_rewards.EXPERIMENT.arms)
