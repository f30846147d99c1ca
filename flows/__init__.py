"""Prefect's side: when the pipeline runs, with what retries, is it good enough, who is told.

The graph is DVC's (`flows.stages` reads it); every stage is reproduced through DVC's own command.
"""
