"""What the bench says beside the CPU step, at a toy size: the features stage, utilisation."""

from dataclasses import replace

import pytest
import torch

from benchmarks import one_step, rates
from benchmarks.flops import necessary_flop
from benchmarks.results import speed_section
from benchmarks.workload import build_workload, moved


def test_features_runs_the_stage_itself_against_bare_decoding(small_config):
    found = rates.measure_features(small_config, n_clips=2, turns=1)
    assert found["stage_clips_per_second"] > 0.0
    assert found["stage_over_decoding"] == pytest.approx(
        found["stage_clips_per_second"] / found["decoding_clips_per_second"]
    )


def test_necessary_flop_by_hand(small_config):
    """2 layers of width 16 (key width 8), 24 wide, 40 words; 10 positions, 3 completions of 4."""
    found = necessary_flop(small_config.text_config, 10, 3, 4)
    per_token = 2 * 2 * (2 * 256 + 2 * 128 + 3 * 384)  # 7,680
    one_layer, keys_and_values = per_token // 2, 2 * 2 * 128  # the last layer's, of the prompt
    prefill = 10 * (one_layer + keys_and_values) + 64 * 55
    completions = 9 * per_token + 128 * (90 + 18) + 2 * 640 * 12
    assert found == {
        "prefill": prefill,
        "decode": completions,
        "policy and reference forward": prefill + 2 * completions,
        "backward": 2 * (prefill + completions),
    }


def test_the_table_of_the_real_size_has_tokens_a_second_and_utilisation(small_config):
    """CUDA's own path on the CPU: bfloat16, moved to a device, its parts, its matmul rate."""
    device = torch.device("cpu")
    workload = moved(build_workload(small_config, text_tokens=9), device, torch.bfloat16)
    workload = replace(workload, clips=workload.cached())
    prompt = 9 + small_config.visual_tokens + small_config.audio_tokens
    count = one_step.counted(small_config, prompt, 1, 2, 4)
    row = one_step.measured(
        one_step.fast_step(workload, 2, 4, one_step.How(1, False, False)), workload
    )
    assert row["wall_parts"].keys() >= count["flop"].keys()
    assert rates.square_rate(device, side=64, repeats=2) > 0.0
    parts = dict.fromkeys(row["wall_parts"], 0.5)
    rows = [
        {
            "name": "CUDA, 0.5B: fast",
            **row,
            **count,
            "wall": 2.0,
            "wall_parts": parts,
            "warm": True,
        },
        {"name": "CUDA", "bf16_matmul_rate": sum(count["flop"].values()) / 0.5},
    ]
    text = "\n".join(speed_section({}, rows, {}))
    assert "| CUDA, 0.5B: fast | step | 1 | 2.000 | 4 | 25.0% |" in text
    assert "| CUDA, 0.5B: fast | towers | 1 | 0.500 | 16 |  |" in text
    share = count["flop"]["backward"] / sum(count["flop"].values())
    assert f"| backward | 1 | 0.500 | 16 | {share:.1%}" in text
