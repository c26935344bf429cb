# Two commands for a newcomer: `make train` and `make test`. Both make the environment (.venv) themselves.

CONFIG ?= experiments/phantom.toml
PYTHON ?= python3
SET ?=
BIN := .venv/bin

.PHONY: train room smoke ablate ablate-quick audit redraw docs docs-serve bench test test-all lint embedded-base embedded-labeler embedded-attributes clean

train: .venv/.core
	$(BIN)/mrg-grpo train $(CONFIG) $(foreach s,$(SET),--set $(s))

# the bench with room: a start that writes in haste, and GRPO from it
room: .venv/.core
	test -d runs/phantom_hasty/adapter || $(BIN)/mrg-grpo sft experiments/phantom_hasty.toml
	$(BIN)/mrg-grpo train experiments/phantom_room.toml $(foreach s,$(SET),--set $(s))

# two workers, each on one thread; one that is done takes over tests of the other
SIDE_BY_SIDE := -n 2 --dist worksteal

test: .venv/.dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

test-all: .venv/.dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mrg_grpo
	$(BIN)/lint-imports
	$(BIN)/python -m experiments.docs.prose

# the site from docs/, in site/; needs no network, and a link to nothing is an error
docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# two real steps of the real command, from a fresh folder
smoke: .venv/.core
	rm -rf runs/smoke
	$(BIN)/mrg-grpo train experiments/phantom.toml --set run.output_dir=runs/smoke --set run.steps=2 --set run.test_studies=32
	$(BIN)/mrg-grpo view runs/smoke

# our step beside TRL's, in an environment of its own; about an hour
bench: .venv-bench/.done
	.venv-bench/bin/python -m experiments.benchmarks.step_against_trl

.venv-bench/.done:
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install -q torch==2.14.1 torchvision==0.29.1
	grep -v '^torch==' constraints.txt > .venv-bench/constraints.txt
	.venv-bench/bin/pip install -q -c .venv-bench/constraints.txt -e '.[bench]'
	touch $@

# all ablations, three seeds, about 9 hours on 2 cores: seed 0 of every experiment first; stop it and start it again at
# will. JOBS arms run side by side, each on its share of the cores: more arms an hour than one on all
JOBS ?= 2
ABLATIONS := rewards rare room margin format group
ablate: .venv/.dev
	for seeds in 0 "0 1" "0 1 2"; do for name in $(ABLATIONS); do \
	  $(BIN)/python experiments/ablations/ablate_$$name.py --jobs $(JOBS) --seeds $$seeds || exit $$?; done; done

# the core arms of the first, one seed, short runs: about 16 minutes on two cores
ablate-quick: .venv/.dev
	$(BIN)/python experiments/ablations/ablate_rewards.py --quick --jobs $(JOBS)

# what each reward pays for: needs the real reports beside the project
audit: .venv/.dev
	$(BIN)/python experiments/audits/reward_audit.py ../shared/data/iu_xray

# every page, table and picture that programs write, anew from the code and the kept records; runs nothing
redraw: .venv/.dev
	$(BIN)/python -m experiments.docs.redraw

# the weights in mrg_grpo/embedded, from nothing; see docs/results/built-in.md
embedded-labeler: .venv/.dev
	$(BIN)/python -m experiments.embedded.train_labeler --out mrg_grpo/embedded/labeler
	$(MAKE) embedded-attributes

# its reader of sides and sizes, on the weights that are there
embedded-attributes: .venv/.dev
	$(BIN)/python -m experiments.embedded.train_attributes --labeler mrg_grpo/embedded/labeler

embedded-base: .venv/.dev
	$(BIN)/python -m experiments.embedded.train_base --out mrg_grpo/embedded/base

# Trackio wants an older pillow than the tests have, so it lies beside their environment, which it reads
.venv-trackio/.done: .venv/.dev
	$(PYTHON) -m venv .venv-trackio
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > $$(.venv-trackio/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/of_the_tests.pth
	.venv-trackio/bin/pip install -q trackio==0.43.0
	touch $@

# RadEval beside the tests' environment, which it reads. medspacy and PyRuSH take an old spacy on Python 3.11, which does
# not know numpy 2; with a new one they run. torchvision, which RadEval declares, it never imports
.venv-radeval/.done: .venv/.dev
	$(PYTHON) -m venv .venv-radeval
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > $$(.venv-radeval/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/of_the_tests.pth
	.venv-radeval/bin/pip install -q --no-deps radeval==2.2.1 medspacy==1.3.1 PyRuSH==1.0.13
	.venv-radeval/bin/pip install -q 'spacy>=3.8,<3.9' PyFastNER medspacy_quickumls==3.2 quicksectx pysbd==0.3.4 loguru \
	  rouge_score nltk pandas datasets h5py jsonpickle appdirs dotmap
	touch $@

.venv/.core: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/.dev: .venv/.core
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q -c constraints.txt --no-deps dashscope  # a file in it is the real Qwen vocabulary; tests read it
	touch $@

clean:
	rm -rf .venv build *.egg-info
