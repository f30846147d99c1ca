"""A transformers user's first line: generate on the processor's inputs, against full forwards."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, DynamicCache

from r1omni.model import HumanOmniForConditionalGeneration
from r1omni.model.humanomni.processor import HumanOmniProcessor
from r1omni.model.sampling import decode
from r1omni.model.shared_prefix import count_positions, prefill

TOKENS = 7
MEDIA = ("pixel_values_videos", "input_features")


@pytest.fixture
def model(small_model: Any) -> Any:
    """Weights of size one: greedy tokens that depend on the prompt and vary."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in small_model.parameters():
            parameter.add_(torch.randn_like(parameter))
    small_model.generation_config.eos_token_id = None
    return small_model


def raw_batch() -> dict[str, Tensor]:
    """Left-padded: video and audio; video alone; text alone; the other two's media are unread."""
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.tensor(
            [[0, 5, -201, 6, -202, 7, 8], [0, 0, 0, 9, 10, -201, 11], [12, 13, 14, 15, 16, 17, 18]]
        ),
        "attention_mask": torch.tensor(
            [[0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]
        ),
        "pixel_values_videos": torch.randn(3, 2, 3, 16, 16, generator=generator),
        "input_features": torch.randn(3, 6, 40, generator=generator),
        "gate_input_ids": torch.tensor([[2, 3, 4, 0], [2, 5, 6, 7], [2, 3, 0, 0]]),
        "gate_attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]),
    }


@torch.no_grad()
def greedy_by_full_forwards(model: Any, inputs: dict[str, Tensor], tokens: int) -> Tensor:
    """Every row alone, without padding or cache, the whole sequence in each step: (B, T)."""
    rows = []
    for row in range(len(inputs["input_ids"])):
        alone = {name: x[row : row + 1] for name, x in inputs.items()}
        keep = alone.pop("attention_mask")[0].bool()
        gate = alone.pop("gate_attention_mask")[0].bool()
        alone["input_ids"] = alone["input_ids"][:, keep]
        alone["gate_input_ids"] = alone["gate_input_ids"][:, gate]
        found: list[int] = []
        for _ in range(tokens):
            token = int(model(**alone).logits[0, -1].argmax())
            found.append(token)
            more = torch.tensor([[token]])
            alone["input_ids"] = torch.cat([alone["input_ids"], more], dim=1)
        rows.append(found)
    return torch.tensor(rows)


def test_a_padded_batch_with_and_without_media_gets_the_tokens_of_full_forwards(model: Any) -> None:
    inputs = raw_batch()
    expected = greedy_by_full_forwards(model, inputs, TOKENS)
    assert len({tuple(row) for row in expected.tolist()}) == 3
    how = {"max_new_tokens": TOKENS, "do_sample": False}
    found = model.generate(**inputs, **how)
    assert found.tolist() == expected.tolist()  # new tokens alone
    embeds, mask = model.embed_prompt(**inputs)
    same = model.generate(inputs_embeds=embeds, attention_mask=mask, **how)
    assert same.tolist() == expected.tolist()
    ids = inputs.pop("input_ids")
    assert model.generate(ids, **inputs, **how).tolist() == expected.tolist()
    assert model.generate(ids, use_cache=False, **inputs, **how).tolist() == expected.tolist()
    cache = DynamicCache(config=model.config.text_config)
    filled = model.generate(ids, past_key_values=cache, **inputs, **how)
    assert filled.tolist() == expected.tolist()


def test_cached_features_and_prompts_of_text_alone_are_taken_too(model: Any) -> None:
    inputs = raw_batch()
    expected = greedy_by_full_forwards(model, inputs, TOKENS)
    inputs["vision_features"] = model.encode_vision(inputs.pop("pixel_values_videos"))
    inputs["audio_features"] = model.encode_audio(inputs.pop("input_features"))
    how = {"max_new_tokens": TOKENS, "do_sample": False}
    assert model.generate(**inputs, **how).tolist() == expected.tolist()
    text = model.generate(inputs["input_ids"][2:], **how)
    assert text.tolist() == expected[2:].tolist()


def test_beams_and_several_sequences_are_those_of_the_embedded_prompt(model: Any) -> None:
    inputs = raw_batch()
    embeds, mask = model.embed_prompt(**inputs)
    for how in (
        {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
        {"num_return_sequences": 4, "do_sample": True, "temperature": 0.7},
    ):
        found = []
        for given in (inputs, {"inputs_embeds": embeds, "attention_mask": mask}):
            torch.manual_seed(5)
            found.append(model.generate(**given, **how, max_new_tokens=TOKENS).tolist())
        assert found[0] == found[1]
        assert len(found[0]) == 3 * how["num_return_sequences"]


def test_a_user_of_transformers_needs_no_method_of_ours(tiny: Any, tmp_path: Any) -> None:
    """Load, process, generate, decode and save by the Auto classes; instructions are padded."""
    tiny.save(tmp_path / "given", None)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "given")
    AutoProcessor.from_pretrained(tmp_path / "given").save_pretrained(tmp_path / "saved")
    loaded.save_pretrained(tmp_path / "saved")
    model = AutoModel.from_pretrained(tmp_path / "saved")
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert type(model) is type(loaded) is HumanOmniForConditionalGeneration
    texts = ["Sad?", "What is felt, and what do you see?", "What is heard?"]
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (4, 30, 50, 3), dtype=np.uint8) for _ in texts]
    sounds = [None, *rng.normal(size=(2, 9000)).astype(np.float32)]
    inputs = processor(text=texts, videos=clips, audio=sounds, return_tensors="pt").to("cpu")
    assert inputs["attention_mask"].sum(dim=1).unique().numel() == 3
    found = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)

    expected = greedy_by_full_forwards(model, inputs, TOKENS)
    with torch.no_grad():
        prefix = prefill(model.model, count_positions(*model.embed_prompt(**inputs)))
    ends = processor.eos_token_ids
    ours = decode(model, prefix, group_size=1, max_new_tokens=TOKENS, eos_token_id=ends)
    lengths = ours.mask[:, 0].sum(dim=1).tolist()
    for row, length in enumerate(lengths):
        tokens = found[row, :length].tolist()
        assert tokens == expected[row, :length].tolist() == ours.token_ids[row, 0, :length].tolist()
        assert set(found[row, length:].tolist()) <= {processor.pad_token_id}
        assert processor.batch_decode(found)[row] == processor.decode(tokens)
    one = processor(texts[0], clips[0])
    assert all(torch.equal(one[name][0], inputs[name][0][-one[name].shape[1] :]) for name in MEDIA)
    alone = model.generate(**one, max_new_tokens=TOKENS, do_sample=False)
    assert alone[0].tolist() == found[0, : lengths[0]].tolist()


def test_a_processor_refuses_what_does_not_fit_together(tiny: Any) -> None:
    frames = np.zeros((4, 30, 50, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="2 instructions, 1 videos and 2 waveforms"):
        tiny.processor(["a", "b"], frames)
    with pytest.raises(ValueError, match=r"\[4, 2\] frames"):
        tiny.processor(["a", "b"], [frames, frames[:2]])
    with pytest.raises(ValueError, match="return_tensors 'np'"):
        tiny.processor("a", frames, return_tensors="np")


def test_generate_stops_at_every_end_token(model: Any, tmp_path: Any) -> None:
    """Those of the config, with padding, and those that generation_config.json names."""
    assert HumanOmniForConditionalGeneration(model.config).generation_config.eos_token_id == [1, 0]
    inputs = raw_batch()
    free = greedy_by_full_forwards(model, inputs, TOKENS)
    later = int(free[0, 2])
    assert later not in free[0, :2].tolist()
    model.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    settings = json.loads(file.read_text()) | {"eos_token_id": [38, later]}
    file.write_text(json.dumps(settings))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.generation_config.eos_token_id == [38, later, 1, 0]
    found = loaded.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    row = found[0].tolist()
    stops = [i for i, t in enumerate(free[0].tolist()) if t in (38, later, 1, 0)]
    assert row[: stops[0] + 1] == free[0, : stops[0] + 1].tolist()
    assert set(row[stops[0] + 1 :]) <= {0}  # padding
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert again.generation_config.eos_token_id == [38, later, 1, 0]


def test_a_processor_ends_at_what_generation_config_names(tiny: Any, tmp_path: Any) -> None:
    processor = tiny.processor
    assert processor.eos_token_ids == (processor.eos_token_id, processor.pad_token_id)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    for named, more in ((7, (7,)), ([processor.pad_token_id, 9], (9,)), (None, ())):
        file.write_text(json.dumps({"eos_token_id": named}))
        found = HumanOmniProcessor.from_pretrained(tmp_path).eos_token_ids
        assert found == (*processor.eos_token_ids, *more)
    file.write_text('{"eos_token_id": "end"}')
    with pytest.raises(ValueError, match=r"generation_config\.json: eos_token_id: expected"):
        HumanOmniProcessor.from_pretrained(tmp_path)
