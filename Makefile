# Everything starts here. On a fresh Debian or Ubuntu with Python 3.11 or newer, nothing else prepared:
#
#   make demo      a broker, three simulated devices and the gateway; live values in the terminal until Ctrl-C
#   make test      installs what the tests need and runs every check
#
# DEMO_SECONDS=30 make demo ends by itself; DEMO_MQTT_PORT=18830 chooses the broker's port.
# SOAK_SECONDS=1800 make soak and FUZZ_SECONDS=60 make fuzz (for each target; FUZZ_TARGET chooses one) take their time.
# PYTEST_ARGS="-k modbus" make test passes words on to pytest. PYTHON=/usr/bin/python3.12 chooses the interpreter.

.ONESHELL:
SHELL := /bin/sh
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
.PHONY: help demo test prove bench soak fuzz chaos venv lock lint system-packages clean package package-proof

BIN := .venv/bin
INSTALLED := .venv/.installed

# What the tests need of the system: a real broker, a C library to build a second Modbus stack on, systemd-analyze (the
# package systemd starts nothing by being there), and a database for the consumers of examples/.
TEST_PACKAGES := mosquitto mosquitto-clients libmodbus-dev gcc libc6-dev pkg-config systemd postgresql
include packaging/package.mk

help:
	@echo "make demo    the gateway with three simulated devices, on this machine alone (DEMO_SECONDS, DEMO_MQTT_PORT)"
	@echo "make test    format, lint, types, imports and all tests (PYTEST_ARGS)"
	@echo "make prove   control in long: 20,000 random histories, every mutant, kill -9 at every point, a storm of 10,000 commands"
	@echo "make bench   what it costs and how fast it is, with floors to compare with (BENCH chooses: endtoend durable control)"
	@echo "make soak    the whole station with everything around it going away and coming back: does it grow (SOAK_SECONDS)"
	@echo "make chaos   16 kinds of faults, 100,000 events, 50 kills: is anything lost (CHAOS_ARGS=\"--seed 7 --faults E1,E5\")"
	@echo "make fuzz    hostile octets to every parser and every protocol stack (FUZZ_SECONDS, FUZZ_TARGET)"
	@echo "make lint    the same without the tests"
	@echo "make venv    only the environment in .venv/; then .venv/bin/gatewayd is there"
	@echo "make lock    choose the newest allowed versions and write requirements*.txt again"
	@echo "make package wheel, sdist and Debian package into dist/, and the proof of them (SIGN_KEY, PROVE=no)"
	@echo "make clean   remove .venv/ and caches"

demo: venv
	@exec $(BIN)/gatewayd demo

# The tests wait for devices more than they compute: three processes, a file in one of them.
test: venv system-packages lint
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(PYTEST_ARGS)

# Longer than anybody wants to wait for at every change: about half an hour on two quiet cores. The table at its end
# says which case of the specification passed.
prove: venv system-packages
	@GATEWAYD_LONG=1 $(BIN)/python -m pytest -n 2 tests/control tests/cases65 \
		tests/protocols/dnp3/test_commands.py tests/protocols/iec61850/test_add_causes_on_the_wire.py \
		tests/protocols/modbus/test_controls.py --timeout=7200 $(PYTEST_ARGS)

# Figures are printed, nothing is asserted: compare ratios of one run, machines differ.
BENCH := endtoend durable control

bench: venv system-packages
	@for part in $(BENCH); do $(BIN)/python -m benchmarks.$$part; done

soak: venv system-packages
	@$(BIN)/python -m tests.soak --seconds $(or $(SOAK_SECONDS),1800)

chaos: venv system-packages
	@$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

# atheris is guided by coverage, but not there for every Python and machine: without it Hypothesis does the work.
fuzz: venv
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-fuzz.txt || echo "atheris is not available here"
	$(BIN)/python -m tests.fuzz --seconds $(or $(FUZZ_SECONDS),60) $(addprefix --target ,$(FUZZ_TARGET))

lint: venv
	@$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

venv: $(INSTALLED)

# The hashes in the lock are of wheels and sources alike; the project itself is built with the setuptools of the lock.
$(INSTALLED): requirements-dev.txt pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then
		$(find_python)
		rm -rf .venv
		"$$python" -m venv .venv
	fi
	echo "installing into .venv/ ($$($(BIN)/python --version))"
	export PIP_DISABLE_PIP_VERSION_CHECK=1
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.txt
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Sets $python to an interpreter that is new enough and can make environments; installs one as root where it can.
define find_python
usable() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
whole() { "$$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }
choose() {
	python=
	for candidate in $(PYTHON) python3 /usr/bin/python3 python3.13 python3.12 python3.11 python3.14; do
		if usable "$$candidate"; then python=$$candidate; if whole "$$candidate"; then return; fi; fi
	done
}
choose
if [ -z "$$python" ] || ! whole "$$python"; then
	packages="python3 python3-venv"
	if [ -n "$$python" ]; then
		packages=$$("$$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
	fi
	$(call apt_install,$$packages)
	choose
	if [ -z "$$python" ] || ! whole "$$python"; then
		echo "no Python 3.11 or newer with the venv module found; name one: make PYTHON=/path/to/python3.12 ..." >&2
		exit 1
	fi
fi
endef

# Installs system packages where they are missing; says what to install where it may not. Services that a package
# brings are not started: a broker on port 1883 is not wanted by anybody here.
define apt_install
wanted="$(1)"
if ! command -v apt-get >/dev/null; then
	echo "please install (names as in Debian): $$wanted" >&2
	exit 1
elif [ "$$(id -u)" != 0 ]; then
	echo "missing on this system; please run:  sudo apt-get install $$wanted" >&2
	exit 1
fi
echo "installing system packages: $$wanted"
policy=/usr/sbin/policy-rc.d
if [ ! -e $$policy ]; then
	trap "rm -f $$policy" EXIT
	printf '#!/bin/sh\nexit 101\n' >$$policy
	chmod +x $$policy
fi
export DEBIAN_FRONTEND=noninteractive
apt_get() { apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "$$@" </dev/null; }
# The lists may be missing or old: only then fetch them.
if ! apt_get install --no-install-recommends -y $$wanted >/dev/null 2>&1; then
	apt_get update
	apt_get install --no-install-recommends -y $$wanted
fi
endef

system-packages:
	@installed() { dpkg-query -W -f '$${db:Status-Status}' "$$1" 2>/dev/null | grep -qx installed; }
	missing=
	if command -v dpkg-query >/dev/null; then
		for package in $(TEST_PACKAGES); do
			installed "$$package" || missing="$$missing $$package"
		done
	else
		for tool in mosquitto mosquitto_sub gcc pkg-config systemd-analyze; do
			PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v "$$tool" >/dev/null || missing="$$missing $$tool"
		done
	fi
	if [ -n "$$missing" ]; then
		$(call apt_install,$$missing)
	fi

PIP_COMPILE := $(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-header --allow-unsafe --strip-extras

# Both files come from the same choice of versions: the second one is held to the first.
lock: venv
	@$(PIP_COMPILE) --extra demo --extra dev --output-file requirements-dev.txt pyproject.toml
	$(PIP_COMPILE) --constraint requirements-dev.txt --output-file requirements.txt pyproject.toml
	echo atheris | $(PIP_COMPILE) --no-annotate --output-file requirements-fuzz.txt -
	if grep -n '://' requirements*.txt; then
		echo "the lock names a host" >&2
		exit 1
	fi

clean:
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
