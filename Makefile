# make lab                      install whatever is missing, then open the first notebook in JupyterLab
#   ARGS="--no-browser"         options for JupyterLab
#   FEATURES=cuda               compute on an NVIDIA GPU (default: the CPU; Metal on a Mac);
#                               test, bench, weights, speedrun, scores and leaderboard take it, too
#   PYTHON=python3.12           the Python to use
# make kernel                   register the kernel for your own JupyterLab or VS Code as "Rust (diffusion)"; takes FEATURES
# make kernel-remove            remove that registration
# make test                     run every check and print the time of each
# make bench                    measure speed in comparison with stock candle
#   TORCH=1                     also PyTorch, installed into target/torch-env; TORCH_PYTHON=PATH uses an installed one
#   ONLY="steps ops"            only some of kernel, steps, sampling, evaluation, ops, scaling, shared; gpu with FEATURES=cuda
#   ARGS="--threads 4"          options; ARGS=--help lists them
# make fuzz                     load damaged files of every format
#   N=1000000                   the number of files
# make notebooks                run the notebooks with their committed values and save the outputs
#   NAMES="01_forward"          only these
# make weights                  train the models in weights/ from scratch; resumes an interrupted training
#   NAMES="mnist"               only these
# make speedrun                 train on MNIST for ten minutes, write weights/speedrun.safetensors and 10×10 samples, evaluate
# make scores                   evaluate the models in weights/ and update their model cards
#   NAMES="mnist"               only these
# make leaderboard              train and compare configurations on the sprites, and write LEADERBOARD.md
# make clean                    remove what the commands above have installed and built, and the kernel's registration; keeps
#                               downloaded data and runs

PYTHON ?= python3
VENV := .venv/bin/python
LAB = $(PYTHON) diffusion-core/lab/lab.py
FEATURE_FLAGS = $(if $(FEATURES),--features "$(FEATURES)")
CARGO = $(LAB) cargo $(FEATURE_FLAGS)

# With FEATURES=cuda, cargo uses the toolkit that `make toolkit` has found or installed.
CUDA = $(findstring cuda,$(FEATURES))
IN = $(if $(CUDA),. .cuda/env && )
DIFFUSION = $(IN)cargo diffusion$(if $(CUDA),-cuda)
TOOLKIT = $(if $(CUDA),toolkit)

# In order: each target needs what the one before has set up.
.NOTPARALLEL:
.PHONY: lab help setup kernel kernel-remove toolkit test rust-tests notebook-tests bench fuzz notebooks weights speedrun scores leaderboard clean python

lab: python
	@$(LAB) open $(FEATURE_FLAGS) $(ARGS)

help:
	@sed -n "s/^# \\{0,1\\}//p; /^$$/q" Makefile

setup: python
	@$(LAB) setup $(FEATURE_FLAGS)

kernel: python
	@$(LAB) register $(FEATURE_FLAGS)

kernel-remove: python
	@$(LAB) unregister

toolkit: python
	@$(LAB) toolkit

# .ci/timed runs every line of the recipes of `make test` and records its time.
test: SHELL := .ci/timed
test: setup rust-tests notebook-tests
	@.ci/timed --summary

rust-tests: python $(TOOLKIT)
	cargo fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets $(FEATURE_FLAGS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps $(FEATURE_FLAGS)
	$(CARGO) test --locked --workspace $(FEATURE_FLAGS)

notebook-tests: setup .venv/tests.stamp
	$(VENV) -m pytest tests -n 2 --dist loadgroup --durations=15

# Only the part `kernel` needs Jupyter.
BENCH_KERNEL = $(if $(ONLY),$(filter kernel,$(ONLY)),kernel)
bench: $(if $(BENCH_KERNEL),setup,python) $(TOOLKIT)
	$(IN)$(if $(BENCH_KERNEL),$(VENV),$(PYTHON)) tests/bench.py $(ONLY) $(if $(TORCH),--torch) \
		$(if $(FEATURES),--features $(FEATURES)) $(ARGS)

fuzz:
	DIFFUSION_FUZZ=$(or $(N),100000) cargo test --locked --release -p diffusion-core --test main fuzz -- --nocapture

notebooks: setup .venv/tests.stamp
	$(VENV) tests/notebooks.py $(NAMES)

TRAINED = $(filter-out speedrun photos-64,$(patsubst weights/%.toml,%,$(wildcard weights/*.toml)))
# The students after their teachers.
FAST = $(filter %-fast,$(TRAINED))
CLASSIFIERS = classifier-sprites classifier-mnist classifier-fashion-mnist classifier-cifar10
CLASSIFIER_sprites = --images 50000
CLASSIFIER_cifar10 = --side 64 --epochs 16
weights: $(addprefix weights-,$(or $(NAMES),$(CLASSIFIERS) $(filter-out $(FAST),$(TRAINED)) $(FAST)))

weights-classifier-%: $(TOOLKIT)
	$(DIFFUSION) classifier --task $* $(CLASSIFIER_$*) --license mit --out weights/classifier-$*.safetensors

weights-%: weights/%.toml $(TOOLKIT)
	$(DIFFUSION) train --config $< --out runs/weights/$*
	$(DIFFUSION) export --run runs/weights/$* --out weights/$*.safetensors --license mit --again "make weights" $(EXPORT_$*)
EXPORT_sprites-epochs = --epochs 0,4,8,31
EXPORT_cifar10 = --samples 100 --guidance 3

speedrun: $(TOOLKIT)
	rm -rf runs/speedrun
	$(DIFFUSION) train --config weights/speedrun.toml --minutes 10 --out runs/speedrun
	$(DIFFUSION) export --run runs/speedrun --out weights/speedrun.safetensors --samples 100 \
		--license mit --again "make speedrun"
	$(MAKE) scores NAMES=speedrun

SCORED = sprites-context sprites-flow sprites-fast mnist mnist-flow mnist-fast fashion-mnist cifar10 speedrun
scores: $(addprefix scores-,$(or $(NAMES),$(SCORED)))

scores-%: weights/%.safetensors $(TOOLKIT)
	$(DIFFUSION) evaluate --checkpoint $< --card weights/$*.md --out runs/scores/$*.json --n 5000 \
		$(if $(filter $*,$(FAST)),--steps 2,--sampler dpm++ --steps 20 --guidance $(or $(SCALE_$*),1.5))
SCALE_sprites-context = 4
SCALE_sprites-flow = 3
SCALE_cifar10 = 3

leaderboard: $(TOOLKIT)
	$(DIFFUSION) leaderboard

# After `setup`: if that reinstalls .venv, the stamp is gone with the old one.
.venv/tests.stamp: tests/requirements.txt
	@$(VENV) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

# `make lab` needs Python to report what else is missing.
python:
	@command -v "$(PYTHON)" >/dev/null || { echo "make: $(PYTHON) was not found: install Python 3.10 or newer \
	(https://www.python.org/downloads/), or name one with 'make PYTHON=/path/to/python3'."; exit 1; }

clean:
	@! command -v "$(PYTHON)" >/dev/null || $(LAB) unregister --clean
	rm -rf .venv .evcxr .lab .cuda target tests/browser/node_modules
