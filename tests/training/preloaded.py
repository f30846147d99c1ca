"""What the processes of forked.py begin with: imported once, in the server that forks them."""

from importlib import import_module

from r1omni.machine.imports import quick_imports

with quick_imports():
    for name in (
        "deepspeed",
        "deepspeed.runtime.zero.muon.muon_optimizer",  # takes seconds, under ZeRO 1-3
        "mlflow",
        "mlflow.store.tracking.sqlalchemy_store",
        "r1omni.training.grpo",
        # imported late, by every training
        "deepspeed.module_inject.auto_ep_layer",
        "mlflow.store.tracking.sqlalchemy_workspace_store",
        "pyarrow.dataset",
        "sqlalchemy.dialects.sqlite",
        "forked",
    ):
        import_module(name)
