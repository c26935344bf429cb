"""RadEval itself, in an environment of its own (`make .venv-radeval/.done`): with_radeval.py has what it is to do."""

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

RADEVAL = Path(".venv-radeval/bin/python")


@pytest.mark.slow
def test_radeval_gives_the_rewards_of_the_field_and_of_the_guide(tmp_path, request):
    root = request.config.rootpath
    python = root / RADEVAL
    if not python.exists():
        assert "MRG_REQUIRE_RADEVAL" not in os.environ, f"{RADEVAL} is missing: make .venv-radeval/.done"
        pytest.skip("no environment with RadEval: make .venv-radeval/.done")
    from field_checkpoints import write_hub  # transformers is slow to import

    page = (root / "docs" / "guides" / "own-reward.md").read_text(encoding="utf-8")
    block = re.search(r"^    # my_rewards\.py\n((?:    .*\n|\n)+)", page, re.MULTILINE)
    assert block is not None
    (tmp_path / "radeval_adapter_for_test.py").write_text(textwrap.dedent(block.group(1)), encoding="utf-8")
    environment = os.environ | write_hub(tmp_path / "hub") | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(tmp_path)])
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "tests/rewards/with_radeval.py"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert passed and int(passed.group(1)) == 8 and "skipped" not in done.stdout, done.stdout
