"""numpy computes the same bytes on every x86-64 CPU."""

import json
import os
import platform
import subprocess
import sys

import pytest

SHOWN = """
import json, sys
import r1omni.cli
assert "numpy" not in sys.modules, "too late to tell it anything"
from r1omni.machine.environment import numpy_as_everywhere
numpy_as_everywhere()
from numpy._core._multiarray_umath import __cpu_features__ as features
print(json.dumps([name for name, used in features.items() if used]))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 only")
def test_numpy_uses_no_instructions_that_only_some_cpus_have():
    environment = {k: v for k, v in os.environ.items() if k != "NPY_DISABLE_CPU_FEATURES"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SHOWN],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    used = json.loads(done.stdout)
    assert [name for name in used if name.startswith(("AVX512", "X86_V4"))] == []
    assert "X86_V2" in used
