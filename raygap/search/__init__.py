"""Searching configurations on Ray."""

import os

if not os.environ.get("RAY_ADDRESS"):
    # Under `uv run`, Ray would start its workers through uv, in a second environment. On this machine they use this
    # one; on a cluster of other machines the second environment is what is wanted. Ray reads it when it is imported.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
