# make package: everything that is released, into dist/, and the proof that it works. See packaging/README.md.
#
#   SIGN_KEY=path   sign SHA256SUMS with this Ed25519 key (mode 0600, never in the repository)
#   PROVE=no        build only; the proof installs into a fresh root, boots it, upgrades, removes: some minutes, as root

PROVE ?= yes

# What the short tests of the package and of the unit's restrictions need, and with it the build itself: the system's
# own Python, dpkg-shlibdeps with its objdump, signing; libseccomp comes with systemd.
BUILD_PACKAGES := python3 dpkg-dev binutils openssl libseccomp2
TEST_PACKAGES += $(BUILD_PACKAGES)
# What the proof needs: a fresh root, something to boot it in, two critics, a broker.
PROOF_PACKAGES := mmdebstrap systemd-container lintian shellcheck mosquitto

PROVING := $(and $(filter yes,$(PROVE)),$(filter 0,$(shell id -u)))

# The build comes before its proof.
.NOTPARALLEL:
.PHONY: package-files

package: TEST_PACKAGES := $(BUILD_PACKAGES) $(if $(PROVING),$(PROOF_PACKAGES))
package: package-files $(if $(PROVING),package-proof)
	@$(if $(PROVING),true,echo "not proved: the proof needs root and PROVE=yes; sudo make package-proof proves what is in dist/")

package-files: venv system-packages
	@PYTHONPATH=packaging $(BIN)/python -m release --out dist $(if $(SIGN_KEY),--sign-key '$(SIGN_KEY)')

package-proof: TEST_PACKAGES := $(BUILD_PACKAGES) $(PROOF_PACKAGES)
package-proof: venv system-packages
	@GATEWAYD_LONG=1 GATEWAYD_PACKAGES=dist $(BIN)/python -m pytest tests/packaging tests/systemd --timeout=900 $(PYTEST_ARGS)
