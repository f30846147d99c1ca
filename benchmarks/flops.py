"""The necessary FLOP of a GRPO step, counted from shapes: the base of every utilisation."""

from transformers import Qwen2Config


def necessary_flop(
    text: Qwen2Config, prompt: int, group_size: int, new_tokens: int
) -> dict[str, float]:
    """FLOP of the language model for one clip, by the fast path's parts (as one_step names them).

    Counted: the prompt once in policy and reference, of the last layer its keys and values alone;
    completions decoded, then scored by both; backward twice its forward; attention between
    positions that see each other; the head on completion positions. Not counted: repeated work,
    towers, connector, elementwise operations.
    """
    width, wide, layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    key_width = width * text.num_key_value_heads // text.num_attention_heads
    per_token = 2 * layers * (2 * width * width + 2 * width * key_width + 3 * width * wide)
    per_pair = 4 * layers * width
    scored = group_size * (new_tokens - 1)  # the last token of a completion is only predicted
    pairs = scored * prompt + group_size * new_tokens * (new_tokens - 1) // 2
    head = 2 * width * text.vocab_size * group_size * new_tokens
    last = 2 * 2 * width * key_width  # a prompt's position in the last layer
    before = (layers - 1) / layers
    prefill = (per_token * before + last) * prompt
    prefill += per_pair * before * (prompt * (prompt + 1) // 2)
    completions = per_token * scored + per_pair * pairs + head
    return {
        "prefill": prefill,
        "decode": completions,
        "policy and reference forward": prefill + 2 * completions,
        "backward": 2 * (prefill + completions),
    }
