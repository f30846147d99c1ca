"""Progress bars: standard output is for answers."""

from r1omni.evaluation.predict import predict_clips
from r1omni.machine.progress import steps_bar
from r1omni.model.feature_store import FeatureStore


def test_bars_are_drawn_on_standard_error_alone(tiny, params, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # or rich draws nothing where there is no terminal
    predict_clips("tiny", tiny, [], FeatureStore([]), predict=params.predict, batch_size=1)
    with steps_bar() as progress:
        progress.add_task("grpo", total=1)
    drawn = capsys.readouterr()
    assert "predict tiny" in drawn.err
    assert "grpo" in drawn.err
    assert drawn.out == ""
