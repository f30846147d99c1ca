"""MLflow's side of the pipeline: runs, registry, promotion, user interface. Only here is mlflow
imported.

`open_run` at the edge of a training stage, `run_register` as a leaf stage, `run_promote` as the
gate before an alias, `model_directory` to find a registered checkpoint, `run_ui` to look.
"""

import os

# MLflow reads these when it is first imported; "1" would not stop its telemetry, "true" does.
os.environ["DO_NOT_TRACK"] = "true"
# A tracking server that is down must not hold a training step for minutes (MLflow's default).
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
