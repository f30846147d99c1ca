"""MLflow's side of the pipeline: runs, registry, promotion, pages. Only here mlflow is imported.

`open_run` records a training stage, `run_register` is a leaf stage, `run_promote` moves an alias if
the new version is better, `model_directory` finds a registered checkpoint, `run_ui` serves MLflow.
"""

import os

# MLflow reads these when it is first imported; "1" would not stop its telemetry, "true" does.
os.environ["DO_NOT_TRACK"] = "true"
# A tracking server that is down must not hold a training step for minutes (MLflow's default).
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("PGCONNECT_TIMEOUT", "5")  # seconds; PostgreSQL's driver has none of its own
