"""Prefect's side of the pipeline: schedule, retries, the gate before promotion, and artifacts.

The graph is DVC's (`flows.stages` reads it); every stage is reproduced through DVC's own command.
"""
