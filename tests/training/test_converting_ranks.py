"""Several ranks convert a public checkpoint: the first writes it, and all end."""

from pathlib import Path
from typing import Any

from forked import Ranks
from toy import toy_params

from benchmarks.original_layout import write_original


def convert(source: Path, folder: Path) -> None:
    """Stage `base` into `folder`."""
    from r1omni.base_model.stage import run_base
    from r1omni.machine.state_folders import TrainingPaths

    params = toy_params()
    run_base(
        source,
        [],
        TrainingPaths(folder / "base", folder / "training", folder / ".state"),
        base=params.base,
        model=params.model,
        media=params.media,
        engine=params.engine,
        machine=params.machine.model_copy(update={"device": "cpu"}),
        limits=params.limits,
        log=lambda _step, _metrics: None,
    )


def test_two_ranks_convert_once_and_both_end(tiny: Any, tmp_path: Path) -> None:
    source = tmp_path / "original"
    write_original(tiny.model, tiny.processor, source, towers_inside=False)
    codes = Ranks(tmp_path / "ranks", 2, convert, source, tmp_path / "both").wait(120.0)
    assert codes == [0, 0], (tmp_path / "ranks/said-1").read_text()[-2000:]
    convert(source, tmp_path / "alone")
    assert written(tmp_path / "both/base") == written(tmp_path / "alone/base")


def written(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
