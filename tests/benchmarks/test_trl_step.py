"""TRL is given the same numbers of tokens as the fast path."""

import torch

from benchmarks.trl_step import PROMPT, word_tokenizer


def test_every_word_is_one_token_whatever_its_letters():
    vocab = 16_384
    tokenizer = word_tokenizer(vocab)
    ids = torch.randint(3, vocab, (PROMPT,)).tolist()
    assert tokenizer(" ".join(f"t{i}" for i in ids))["input_ids"] == ids
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 1, vocab)
