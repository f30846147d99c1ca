"""One list of completions that try to earn what they do not deserve.

Shared by the tests of the parser, the rewards and the evaluation, so that what is not well formed
for one is not well formed for any. Everywhere the label to be earned is "happy".
"""

# Not well formed: parse gives None, every reward is 0, and there is no prediction.
MALFORMED: dict[str, str] = {
    "empty": "",
    "white space only": " \n\t ",
    "bare label": "happy",
    "no rationale": "<answer>happy</answer>",
    "no answer": "<think>a smile</think>",
    "empty tags": "<think></think><answer></answer>",
    "blank rationale": "<think> \n </think><answer>happy</answer>",
    "blank answer": "<think>a</think><answer>\t</answer>",
    "two answers, right one last": "<think>a</think><answer>sad</answer><answer>happy</answer>",
    "two answers, right one first": "<think>a</think><answer>happy</answer><answer>sad</answer>",
    "the same answer twice": "<think>a</think><answer>happy</answer><answer>happy</answer>",
    "two rationales": "<think>a</think><think>b</think><answer>happy</answer>",
    "answer inside the rationale": "<think>a <answer>happy</answer></think>",
    "answer inside and outside": "<think><answer>happy</answer></think><answer>sad</answer>",
    "rationale inside the answer": "<answer><think>a</think>happy</answer>",
    "nested rationales": "<think><think>a</think></think><answer>happy</answer>",
    "wrong order": "<answer>happy</answer><think>a</think>",
    "crossed tags": "<think>a<answer></think>happy</answer>",
    "text before": "Sure! <think>a</think><answer>happy</answer>",
    "text between": "<think>a</think> so <answer>happy</answer>",
    "text after": "<think>a</think><answer>happy</answer> I am sure.",
    "a special token between": "<think>a</think>\n<|endoftext|><answer>happy</answer>",
    "special tokens in and between": (
        "<think><|endoftext|>a </think>\n<|endoftext|><answer>happy</answer>"
    ),
    "end token left in": "<think>a</think><answer>happy</answer><|im_end|>",
    "unclosed answer": "<think>a</think><answer>happy",
    "unclosed rationale": "<think>a<answer>happy</answer>",
    "unopened rationale": "a</think><answer>happy</answer>",
    "cut off in a tag": "<think>a</think><answer>happy</answe",
    "capital tags": "<THINK>a</THINK><ANSWER>happy</ANSWER>",
    "tags with attributes": '<think>a</think><answer class="x">happy</answer>',
    "escaped tags": "&lt;think&gt;a&lt;/think&gt;&lt;answer&gt;happy&lt;/answer&gt;",
    "full-width tags": "＜think＞a＜/think＞＜answer＞happy＜/answer＞",  # noqa: RUF001
    "one tag too many at the end": "<think>a</think><answer>happy</answer></answer>",
    "the whole thing twice": "<think>a</think><answer>happy</answer>" * 2,
    "a thousand opening tags": "<think>" * 1000 + "<answer>happy</answer>",
    "NUL before": "\0<think>a</think><answer>happy</answer>",
    "lone surrogate": "\ud800",
}

# Well formed, but the answer is not exactly one known label: format 1, accuracy 0, no prediction.
NO_KNOWN_LABEL: dict[str, str] = {
    "two labels": "<think>a</think><answer>happy, sad</answer>",
    "two labels, slash": "<think>a</think><answer>happy/happy</answer>",
    "all labels": "<think>a</think><answer>neutral happy sad angry surprise fear</answer>",
    "negation": "<think>a</think><answer>not happy</answer>",
    "sentence": "<think>a</think><answer>The emotion is happy</answer>",
    "label with a suffix": "<think>a</think><answer>happyish</answer>",
    "unknown word": "<think>happy</think><answer>ecstatic</answer>",
    "number": "<think>happy</think><answer>1</answer>",
    "letters apart": "<think>a</think><answer>h a p p y</answer>",
    "zero-width space": "<think>a</think><answer>hap\u200bpy</answer>",
    "full-width letters": "<think>a</think><answer>ｈａｐｐｙ</answer>",  # noqa: RUF001
    "punctuation only": "<think>a</think><answer>...</answer>",
    "end token inside": "<think>a</think><answer>happy<|im_end|></answer>",
    "half a tag": "<think>a</think><answer>happy</answer</answer>",
    "markup": "<think>a</think><answer><script>alert('happy')</script></answer>",
    "very long": f"<think>a</think><answer>{'happy ' * 10_000}</answer>",
}

# Odd but honest: well formed, and the answer is happy. The parser must not be stricter than this.
HONEST: dict[str, str] = {
    "plain": "<think>a smile</think>\n<answer>happy</answer>",
    "no line break": "<think>a smile</think><answer>happy</answer>",
    "white space everywhere": " \n<think> a\nb </think>\n\n<answer>\n happy \n</answer>\n ",
    "capitals and a full stop": "<think>a</think><answer>Happy.</answer>",
    "bold": "<think>a</think><answer>**happy**</answer>",
    "the corpus's own word": "<think>a</think><answer>happiness</answer>",
    "another label in the rationale": "<think>not sad, not angry</think><answer>happy</answer>",
    "angle brackets in the rationale": "<think>1 < 2 > 0</think><answer>happy</answer>",
    "other tags in the rationale": "<think><b>a</b></think><answer>happy</answer>",
}
