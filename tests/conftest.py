"""Before any test: the package goes first, so that MXNet is loaded as it has to be."""

from __future__ import annotations

import hypothesis

import dso_nas  # noqa: F401

# The machine may be busy with other things: no test fails for being slow.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")
