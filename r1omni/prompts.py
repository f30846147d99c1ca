"""All wording: what the model is asked, in training, evaluation and `predict` alike.

The sentences are from the paper (arXiv 2503.05379) and its released code. One function makes a
prompt; nobody else concatenates strings, so training and inference cannot drift apart.
"""

import re
from typing import Final, Literal

AnswerMode = Literal["reasoned", "direct"]

VIDEO: Final[str] = "<video>"
AUDIO: Final[str] = "<audio>"

EMOTION_QUESTION: Final[str] = (
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the "
    "characters is the most obvious to you?"
)
REASONED_SUFFIX: Final[str] = (
    "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
)
CAPTION_QUESTION: Final[str] = "Describe the face and the voice in this video."

SYSTEM: Final[str] = "You are a helpful assistant."

# Qwen's chat template for one system and one user turn, as the public tokenizer ships it.
CHAT_TEMPLATE: Final[str] = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END_OF_TURN: Final[str] = "<|im_end|>"
PAD: Final[str] = "<|endoftext|>"

# What steers a model that reads it: Qwen's control tokens, and the sentinels of media. No text of
# a corpus may hold it.
CONTROL: Final = re.compile(
    r"<\|\w{1,40}\|>|</?(?:video|audio|image|vi_start|vi_end|au_start|au_end)>"
)


def instruction(mode: AnswerMode) -> str:
    """The emotion question as it is put to a model that answers in `mode`."""
    return f"{EMOTION_QUESTION}\n{REASONED_SUFFIX}" if mode == "reasoned" else EMOTION_QUESTION


def user_turn(instruction_text: str) -> str:
    """The user's turn: both modalities' placeholders, then the instruction (HumanOmni's order)."""
    return f"<vi_start>{VIDEO}<vi_end>\n<au_start>{AUDIO}<au_end>\n{instruction_text}"


def messages(instruction_text: str) -> list[dict[str, str]]:
    """The conversation that the chat template renders into a prompt."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": user_turn(instruction_text)},
    ]
