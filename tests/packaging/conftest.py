"""The build's own modules can be imported by the tests of this folder."""

from __future__ import annotations

import tests.packaging.support  # noqa: F401
