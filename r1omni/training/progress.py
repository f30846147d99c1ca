"""The live line of a training: what it does, the step it is at, the time that is left."""

from rich.progress import MofNCompleteColumn, Progress

from r1omni.training.ranks import is_first


def steps_bar() -> Progress:
    """A bar in steps that goes when the training ends; of several ranks only the first has one."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    return Progress(*columns, transient=True, disable=not is_first())
