import gc
import subprocess
import sys

from r1omni.machine.imports import quick_imports


def test_garbage_collection_pauses_in_the_block_and_goes_on_after_it() -> None:
    frozen = gc.get_freeze_count()
    with quick_imports():
        assert not gc.isenabled()
        kept = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(kept)


def test_a_failed_import_leaves_it_on_and_an_outer_block_keeps_it_off() -> None:
    program = """
import gc
from r1omni.machine.imports import quick_imports
try:
    with quick_imports():
        import no_such_module
except ModuleNotFoundError:
    print(gc.isenabled())
gc.disable()
with quick_imports():
    pass
print(gc.isenabled())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
