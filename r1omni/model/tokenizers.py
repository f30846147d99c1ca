"""Tokenizers, read or trained: Qwen's for the language model, BERT's for the gate."""

import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import BertTokenizerFast, PreTrainedTokenizerFast, Qwen2Tokenizer

from r1omni import prompts

TURN_START: Final = "<|im_start|>"
# One token each, but ordinary text: they must survive a decoding that skips special tokens.
TAGS: Final = ("<think>", "</think>", "<answer>", "</answer>")
_TAG = re.compile("|".join(map(re.escape, TAGS)))
_SPECIAL: Final = (prompts.PAD, TURN_START, prompts.END_OF_TURN)
_GATE_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# How Qwen2 cuts text into words (the public tokenizer's own expression).
_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The language model's tokenizer in a folder.

    Raises ValueError, naming the folder, where there is none, and for one that is damaged.
    """
    try:
        if (directory / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(directory)
        if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
            return Qwen2Tokenizer.from_pretrained(directory)
    except Exception as error:  # the tokenizers library has no narrower one
        raise ValueError(f"{directory}: its tokenizer cannot be read: {error!r}") from error
    raise ValueError(f"{directory}: expected tokenizer.json, or vocab.json and merges.txt")


def train_tokenizer(
    texts: Iterable[str], max_vocab_size: int, control: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer as Qwen2's, of at most `max_vocab_size` tokens in all.

    `control` are control tokens besides those of every Qwen. The tags <think>, </think>, <answer>,
    </answer> are one token each. The prompts' own wording counts once per text, which is how often
    a model reads it. The same texts give the same tokenizer. Raises ValueError for a vocabulary
    without room for the 256 bytes.
    """
    special = list(dict.fromkeys([*_SPECIAL, *control]))
    smallest = 256 + len(special) + len(TAGS)
    if max_vocab_size < smallest:
        raise ValueError(f"a vocabulary of {max_vocab_size} is too small: {smallest} at least")
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max_vocab_size - len(TAGS),
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_pieces(texts), trainer)
    backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=prompts.PAD,
        eos_token=prompts.END_OF_TURN,
        chat_template=prompts.CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def train_gate_tokenizer(texts: Iterable[str], max_vocab_size: int = 1024) -> BertTokenizerFast:
    """A WordPiece tokenizer as BERT's: the texts' words whole, others split into ASCII characters.

    Deterministic: the more frequent words first, then by alphabet, `max_vocab_size` at most.
    """
    characters = [c for c in string.printable if not c.isspace() and not c.isupper()]
    pieces = [*_GATE_SPECIAL, *characters, *(f"##{c}" for c in characters)]
    splitter = pre_tokenizers.BertPreTokenizer()
    normalizer = normalizers.BertNormalizer()
    counts: Counter[str] = Counter()
    for text in texts:
        words = splitter.pre_tokenize_str(normalizer.normalize_str(text))
        counts.update(word for word, _ in words)
    for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if word not in pieces and len(pieces) < max_vocab_size:
            pieces.append(word)
    return BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """The texts and, for each, a prompt, cut at tags and placeholders, which take no merges."""
    wording = [
        text
        for mode in ("reasoned", "direct")
        for message in prompts.messages(prompts.instruction(mode))
        for text in re.split(f"{prompts.VIDEO}|{prompts.AUDIO}", message["content"])
    ]
    for text in texts:
        yield from _TAG.split(text)
        yield from wording
