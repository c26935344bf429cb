"""The configuration: what is refused, and in what words."""

import pytest
import torch

from mrg_grpo.config import Config, check, load_config
from mrg_grpo.errors import UserError
from mrg_grpo.toml import changed_keys, to_toml


def write(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[grpo]\ngroup_siz = 4", 'unknown key "group_siz"; did you mean "group_size"'),
        ("[grop]\n", 'unknown key "grop"; did you mean "grpo"'),
        ("[grpo]\ngroup_size = 'four'", "group_size: expected a whole number, got 'four'"),
        ("[grpo]\ngroup_size = 4.5", "expected a whole number"),
        ("[grpo]\ngroup_size = true", "expected a whole number"),
        ("[prompt]\nthink = 1", "expected true or false"),
        ("grpo = 3", "expected a table"),
        ("[data]\nsections = 3", "sections: expected a list"),
        ("[data]\nsections = ['plan']", "sections: 'plan' is not one of findings, impression"),
        ("[data]\nsections = ['findings', 'plan']", "'plan' is not one of"),
        ("[data]\nsections = []", "sections: is empty; use findings or impression"),
        ("[grpo]\ngroup_size = 1", "grpo.group_size: 1 must be at least 2"),
        ("[grpo]\naggregate = 'mean'", "is not one of sequence, token, constant"),
        ("[grpo]\nbeta = -0.1", "must not be negative"),
        ("[grpo]\nlearning_rate = 0", "must be above 0"),
        ("[reward.mccs]\nmargin = 1.0", "below 1"),
        ("[reward.weights]\nmccs = 0", "every weight is 0"),
        ("[data]\nform = 'iu_xray_r2gen'", "needs the folder"),
        ("[reward.mccs]\nzero_vectors = 5", "reward.mccs.zero_vectors: 5.0 must be at most 1"),
        ("[reward.mccs]\nzero_vectors = -1", "zero_vectors: -1.0 must not be negative"),
        ("[reward.clinical]\ndenial = 1.5", "reward.clinical.denial: 1.5 must be at most 1"),
        ("[reward.clinical]\ncontradiction = -0.1", "contradiction: -0.1 must not be negative"),
        ("[reward.clinical]\nuncertain = 2", "reward.clinical.uncertain: 2.0 must be at most 1"),
        ("[reward.clinical]\nnormal = 'always'", "'always' is not one of none, positive, strict, unhedged"),
        ("[reward.clinical]\ngate = -1", "reward.clinical.gate: -1.0 must not be negative"),
        ("[reward.clinical]\nmargin = 0.2", 'unknown key "margin"'),
        ("[data]\nviews = 'left'", "must be"),
        ("[run\n", "not valid TOML"),
    ],
)
def test_refused_in_one_line(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        load_config(write(tmp_path, text))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_missing_file_and_bad_override(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_config(tmp_path / "none.toml")
    path = write(tmp_path, "")
    for bad in ("grpo.group_size", "=3", "run.seed.x=1", "reward.weights.=1", "reward.weights.''=1"):
        with pytest.raises(UserError):
            load_config(path, [bad])


def test_overrides(tmp_path):
    config = load_config(
        write(tmp_path, "[grpo]\ngroup_size = 4"),
        ["grpo.group_size=16", "grpo.learning_rate=1e-5", "data.sections=['findings', 'impression']",
         "run.output_dir=runs/other", "reward.weights={ mccs = 1 }", "prompt.think=false", "data.views=2"],
    )  # fmt: skip
    assert config.grpo.group_size == 16 and config.grpo.learning_rate == 1e-5
    assert config.data.sections == ["findings", "impression"] and config.run.output_dir == "runs/other"
    assert config.reward.weights == {"mccs": 1.0} and config.prompt.think is False and config.data.views == "2"


@pytest.mark.parametrize("name", ["my_pkg.my_mod:no_prior", "my_pkg.my_mod.no_prior", "bleu"])
@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_an_override_of_a_weight_names_one_term_and_keeps_the_others(tmp_path, name, quote):
    setting = f"reward.weights.{quote}{name}{quote}=0.5"
    assert load_config(write(tmp_path, ""), [setting]).reward.weights == {"mccs": 0.75, "format": 0.25, name: 0.5}
    own = write(tmp_path, "[reward.weights]\nccs = 1.0\n[reward.mccs]\nmargin = 0.2\n")
    assert load_config(own, [setting]).reward.weights == {"ccs": 1.0, name: 0.5}
    assert load_config(own, [setting, setting.replace("0.5", "0.25")]).reward.weights == {"ccs": 1.0, name: 0.25}
    only = load_config(write(tmp_path, ""), [f"reward.weights={{ '{name}' = 1 }}"])  # the whole table at once
    assert only.reward.weights == {name: 1.0} and Config().reward.weights == {"mccs": 0.75, "format": 0.25}


def test_written_config_reads_back_equal(tmp_path):
    config = Config()
    config.prompt.text = 'a "quoted"\\ line\nand another\t'
    config.reward.weights = {"mccs": 0.75, "my.module:fn": 0.1}
    config.data.sections = ["findings", "impression"]
    assert load_config(write(tmp_path, to_toml(config))) == check(config)


def test_changed_keys():
    a, b = Config(), Config()
    b.grpo.beta, b.reward.mccs.margin = 0.5, 0.1
    assert changed_keys(a, b) == ["reward.mccs.margin", "grpo.beta"]


def test_a_file_may_include_one_other_and_change_it(tmp_path):
    (tmp_path / "whole.toml").write_text(
        "[grpo]\ngroup_size = 4\nbeta = 0.5\n[lora]\nrank = 2\n[reward.weights]\nmccs = 1.0\n"
    )
    (tmp_path / "small.toml").write_text(
        'include = "whole.toml"\n[grpo]\ngroup_size = 2\n[reward.weights]\nformat = 0.5\n'
    )
    config = load_config(tmp_path / "small.toml", ["lora.rank=3"])
    assert (config.grpo.group_size, config.grpo.beta, config.lora.rank) == (2, 0.5, 3)
    assert config.reward.weights == {"format": 0.5}  # a file with that table has the terms that it names and no others
    (tmp_path / "margin.toml").write_text('include = "whole.toml"\n[reward.mccs]\nmargin = 0.2\n')
    assert load_config(tmp_path / "margin.toml").reward.weights == {"mccs": 1.0}  # without it, the included file's
    for text, words in (('include = ["whole.toml"]', "one TOML file"), ('include = "none.toml"', "no such file")):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(UserError, match=words):
            load_config(tmp_path / "bad.toml")


def test_includes_chain_and_a_circle_is_named(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.toml").write_text("[grpo]\ngroup_size = 4\nbeta = 0.5\n[lora]\nrank = 2\n")
    (tmp_path / "sub" / "b.toml").write_text('include = "../a.toml"\n[grpo]\nbeta = 0.25\n')
    (tmp_path / "c.toml").write_text('include = "sub/b.toml"\n[lora]\nrank = 8\n')
    config = load_config(tmp_path / "c.toml")
    assert (config.grpo.group_size, config.grpo.beta, config.lora.rank) == (4, 0.25, 8)
    (tmp_path / "a.toml").write_text('include = "./c.toml"')
    with pytest.raises(UserError, match=r"circle .*c.toml includes .*b.toml includes .*a.toml includes .*c.toml"):
        load_config(tmp_path / "c.toml")
    (tmp_path / "own.toml").write_text('include = "own.toml"')
    with pytest.raises(UserError, match="circle"):
        load_config(tmp_path / "own.toml")


@pytest.mark.parametrize("name", ["iu_xray_24gb", "iu_xray_40gb", "mimic_cxr_24gb", "mimic_cxr_40gb"])
def test_a_file_of_ones_own_may_include_those_for_smaller_cards(name, tmp_path, request):
    (tmp_path / "own.toml").write_text(
        f'include = "{request.config.rootpath}/experiments/{name}.toml"\n[data]\nroot = "/data"\n'
    )
    assert load_config(tmp_path / "own.toml").data.root == "/data"


@pytest.mark.parametrize("text", ["a\x0bb\x00".strip("\0"), "\x7f", 'say "so"\\', "\u2028 \x85 é\n\t\r\b"])
def test_any_text_comes_back_from_toml(text, tmp_path):
    config = Config()
    config.prompt.text = text
    (tmp_path / "c.toml").write_text(to_toml(config), encoding="utf-8", newline="")
    assert load_config(tmp_path / "c.toml").prompt.text == text


def test_one_gpu_is_not_given_to_many_ranks(monkeypatch):
    config = Config()
    config.model.device = "cuda:1"
    with pytest.raises(UserError, match="sees no GPU here"):
        config.model.resolved_device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert config.model.resolved_device().index == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r'model.device: cuda:1 .*set "cuda"'):
        config.model.resolved_device()


@pytest.mark.parametrize("value", ["1e39", "-1e300", "1e-46", "1e-39"])
def test_numbers_that_fp32_does_not_hold_are_refused(value):
    with pytest.raises(UserError, match=r"learning_rate: .* is not a number that fp32 holds"):
        load_config(None, [f"grpo.learning_rate={value}"])
    assert load_config(None, ["grpo.learning_rate=2e-38", "grpo.beta=0.0"]).grpo.learning_rate == 2e-38
    assert load_config(None, ["grpo.max_grad_norm=3e38"]).grpo.max_grad_norm == 3e38
