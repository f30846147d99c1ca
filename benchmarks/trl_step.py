"""The language-model part of the step by TRL's GRPOTrainer: the same Qwen2, text instead of media.

TRL takes no video, no audio and no shared prompt, so it gets 999 text tokens. Its settings favour
it or give equal work: no gradient checkpointing, float32, plain SGD, GRPO's loss with the same KL.
Timed from the beginning of a step to just before the optimizer.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Clock, PeakMemory
from benchmarks.workload import KL_COEF, midsize_config

PROMPT = 999


def measure_trl(group_size: int, new_tokens: int) -> dict[str, object]:
    """One step's CPU and wall seconds, and peak memory; {"missing": …} if TRL is not installed."""
    try:
        import trl
    except ImportError as error:
        return {"missing": f"trl is not installed ({error}); it is the extra `bench`"}
    from datasets import Dataset
    from transformers import Qwen2ForCausalLM, TrainerCallback

    clock = Clock()

    class Timed(TrainerCallback):  # type: ignore[misc]
        """Times every step but the first part of the loop; keeps the peak memory."""

        def __init__(self) -> None:
            self.peak = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.memory = PeakMemory()
            self.part = clock.part("step")
            self.part.__enter__()

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            self.part.__exit__(None, None, None)
            self.peak = self.memory.above_start()

    config = midsize_config().text_config
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Qwen2ForCausalLM(config).save_pretrained(folder / "model")
        model = Qwen2ForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        with torch.no_grad():
            model(torch.ones(2, 100, dtype=torch.long))  # warm, as the textbook is
        words = torch.randint(3, config.vocab_size, (PROMPT,)).tolist()
        dataset = Dataset.from_dict({"prompt": [" ".join(f"t{w}" for w in words)] * group_size})
        timed = Timed()
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [float(i) for i in range(len(completions))],
            args=_one_step(folder / "out", group_size, new_tokens),
            train_dataset=dataset,
            processing_class=word_tokenizer(config.vocab_size),
            callbacks=[timed],
        )
        trainer.train()
        tokens = int(trainer.state.num_input_tokens_seen or 0)
    expected = group_size * (PROMPT + new_tokens)
    if tokens != expected:
        raise RuntimeError(f"TRL saw {tokens} tokens, the fast path {expected}: no comparison")
    return {
        "cpu": clock.cpu["step"],
        "wall": clock.wall["step"],
        "peak_mib": timed.peak,
        "warm": True,
        "tokens_seen": tokens,
        "version": trl.__version__,
    }


def _one_step(out: Path, group_size: int, new_tokens: int) -> Any:
    """TRL's settings for one step of the fast path's sizes; it writes below `out`."""
    import trl

    return trl.GRPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=group_size,
        num_generations=group_size,
        max_completion_length=new_tokens,
        max_steps=1,
        beta=KL_COEF,
        loss_type="grpo",
        optim="sgd",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        generation_kwargs={"min_new_tokens": new_tokens},
    )


def word_tokenizer(vocab_size: int) -> Any:
    """A tokenizer of words <pad>, </s>, <unk>, t3, t4, …: one token per word.

    No special token may be a prefix of a word: tokenizers split words at special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", *(f"t{i}" for i in range(3, vocab_size))]
    tokenizer = Tokenizer(
        models.WordLevel(dict(zip(words, range(vocab_size), strict=True)), "<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", padding_side="left"
    )
