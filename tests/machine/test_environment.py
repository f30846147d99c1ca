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
from numpy._core._multiarray_umath import __cpu_dispatch__ as variants, __cpu_features__ as there
print(json.dumps([name for name in variants if there[name]]))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 only")
def test_numpy_uses_no_instructions_that_only_some_cpus_have():
    environment = {k: v for k, v in os.environ.items() if k != "NPY_DISABLE_CPU_FEATURES"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SHOWN],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    used = json.loads(done.stdout)
    assert set(used) <= {"X86_V3"}  # of numpy's variants for newer CPUs, what every server has
