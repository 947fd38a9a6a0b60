"""Token ids of a preference row, from TRL's `DPOTrainer` and from our reader.

TRL's are those that its collator hands to the model: prompt, chosen and rejected, cut to
max_length. A difference is explained if one of `REASONS`, or several together, turns TRL's ids
into ours; what one side refuses is explained by the other's words.
"""

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from dpo_lib.language_model import data
from dpo_lib.language_model.data.rows import DataError
from oracle.folders import EOS, byte_level, random_model
from oracle.losses import PLAIN
from oracle.rows import DIFFERENT

# As their models have them, without the parts for tools.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set talk = messages[1:] %}"
    "{% set system = messages[0].content %}{% else %}{% set talk = messages %}"
    "{% set system = false %}{% endif %}{% for m in talk %}"
    "{% if loop.index0 == 0 and system != false %}"
    "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content %}"
    "{% else %}{% set content = m.content %}{% endif %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for m in messages %}{% set content = '<|start_header_id|>' + m.role + "
    "'<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' %}"
    "{{ bos_token + content if loop.first else content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}\n{{ '<|' + m.role + '|>\n' + m.content + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set talk = messages[1:] %}{% else %}{% set talk = messages %}{% endif %}{{ bos_token }}"
    "{% for m in talk %}{% if m.role == 'user' %}{% if loop.last and system is defined %}"
    "{{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}"
    "{% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
QWEN_3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set content = m.content %}{% if m.role == 'assistant' %}"
    "{% set thought = '' %}{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{% set content = '<think>\n' + thought + '\n</think>\n\n' + content %}{% endif %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% else %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
IM = ("<|im_start|>", EOS)
SENTENCEPIECE = dict(bos_token="<s>", eos_token="</s>", adds_bos=True)
TOKENIZERS = {
    "ChatML (Qwen 2.5)": (CHATML, IM, dict(eos_token="<|im_end|>")),
    "Llama 2": (LLAMA_2, (), SENTENCEPIECE),
    "Llama 3": (LLAMA_3, ("<|start_header_id|>", "<|end_header_id|>"),
                dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", adds_bos=True)),
    "Gemma": (GEMMA, ("<start_of_turn>", "<end_of_turn>"),
              dict(bos_token="<bos>", eos_token="<eos>", adds_bos=True)),
    "Zephyr": (ZEPHYR, (), SENTENCEPIECE),
    "Mistral v3": (MISTRAL, ("[INST]", "[/INST]"), SENTENCEPIECE),
    "Qwen 3": (QWEN_3, IM, dict(eos_token="<|im_end|>")),
    "DeepSeek R1": (DEEPSEEK, ("<|User|>", "<|Assistant|>"), SENTENCEPIECE),
}  # fmt: skip


def turns(*contents: str, system: str | None = None) -> list[dict]:
    """A conversation: user and assistant in turn, after a system message if there is one."""
    roles = ("user", "assistant") * len(contents)
    talk = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": system}] * (system is not None) + talk


def pair(history: list[dict], chosen: str = "It was good.", rejected: str = "Bad, I said.") -> dict:
    """A row with the prompt on its own."""
    answers = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    return {"prompt": history, **dict(zip(("chosen", "rejected"), answers, strict=True))}


def whole(row: dict) -> dict:
    """The row with its prompt in front of both answers instead."""
    return {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}


ASKED = turns("How was the film?")
LATER = turns("How was the film?", "Long.", "And its end?")
CONVERSATIONS = {
    "one question": pair(ASKED),
    "system": pair(turns("How was the film?", system="Be short, and say only what you saw.")),
    "several turns": pair(LATER),
    "prompt implicit": whole(pair(LATER)),
    "blanks": pair(turns(" How was it? "), "It was good.\n", " Bad."),
    "thought": pair(
        ASKED, "<think>\nA story.\n</think>\n\nGood.", "<think>\nNo.\n</think>\n\nBad."
    ),
    "answer cut": pair(ASKED, "very long and " * 30, "a story of it " * 30),
    "prompt cut": pair(turns("very long and " * 30)),
}
SHORT, LONG = 80, 512  # max_length, where something is to be cut and elsewhere

TALK = "\n\nHuman: How was it?\n\nAssistant:"
FILM = {"prompt": "the film was", "chosen": " good", "rejected": " bad"}
QUESTION = {"prompt": "How was the film?"}
GPT_2, LLAMA_LIKE = (None, (), dict(eos_token=EOS)), (None, (), SENTENCEPIECE)
QWEN = TOKENIZERS["ChatML (Qwen 2.5)"]
TEXTS = {
    "prompt and answers": (GPT_2, FILM),
    "a tokenizer that writes a BOS": (LLAMA_LIKE, FILM),
    "an empty prompt": (GPT_2, FILM | {"prompt": ""}),
    "a prompt that ends in a space": (
        GPT_2, {"prompt": "the film was ", "chosen": "good", "rejected": "bad"}),
    "answers that end in the EOS": (
        GPT_2, FILM | {"chosen": f" good{EOS}", "rejected": f" bad{EOS}"}),
    "a prompt with the EOS in its text": (GPT_2, FILM | {"prompt": f"said {EOS} it"}),
    "answers that are cut": (
        GPT_2, FILM | {"chosen": " very long" * 99, "rejected": " a story" * 99}),
    "a prompt that is cut": (GPT_2, FILM | {"prompt": "the very long film " * 50 + "was"}),
    "transcripts that hold the prompt": (
        GPT_2, {"chosen": f"{TALK} It was good", "rejected": f"{TALK} It was bad"}),
    "a text and two conversations": (QWEN, whole(pair(ASKED)) | QUESTION),
    "conversations that part early": (
        QWEN, {"chosen": whole(pair(LATER))["chosen"], "rejected": turns(
            "How was the film?", "Bad.", "And its end?", "Bad, I said.")}),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """Token ids, or why there are none."""

    prompt: tuple[int, ...] = ()
    chosen: tuple[int, ...] = ()
    rejected: tuple[int, ...] = ()
    refused: str = ""

    def changed(self, prompt: Callable, answer: Callable) -> "Made":
        return replace(
            self, prompt=prompt(self.prompt), chosen=answer(self.chosen),
            rejected=answer(self.rejected),
        )  # fmt: skip


def tokenizer_of(template: str | None, special: Iterable[str], named: dict):
    """A tokenizer with a template and the control tokens that it writes."""
    found = byte_level(list(special), **named)
    found.add_tokens(["<think>", "</think>"])  # tokens, and not special ones, as in Qwen 3
    found.chat_template = template
    found.pad_token = found.eos_token
    return found


def theirs(folder: Path, tokenizer: PreTrainedTokenizerFast, rows: list[dict], length: int) -> Made:
    """What TRL's collator makes of the last of some rows."""
    settings = DPOConfig(output_dir=str(folder / "trl"), max_length=length, **PLAIN)
    models = (random_model("gpt2", len(tokenizer), seed=0) for _ in range(2))
    try:
        trainer = DPOTrainer(
            model=next(models), ref_model=next(models), args=settings,
            train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        )  # fmt: skip
    except Exception as error:  # whatever a template, datasets or TRL raises
        return Made(refused=f"{type(error).__name__}: {error}")
    if len(trainer.train_dataset) < len(rows):
        return Made(refused="dropped")
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    batch = trainer.data_collator([{name: trainer.train_dataset[-1][name] for name in columns}])
    sides = []
    for ids, attended, completion in zip(
        batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
    ):
        prompt = tuple(ids[(attended == 1) & (completion == 0)].tolist())
        sides.append((prompt, tuple(ids[completion == 1].tolist())))
    return Made(sides[0][0], sides[0][1], sides[1][1])


def ours(folder: Path, tokenizer: PreTrainedTokenizerFast, rows: list[dict], length: int) -> Made:
    """What our reader makes of the last of some rows."""
    path = folder / "row.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        found, report = data.read_preferences(path, tokenizer)
        pairs = data.tokenize_preferences(found, tokenizer, length, report)
    except DataError as error:
        return Made(refused=str(error))
    if report.used < len(rows):
        return Made(refused="; ".join(report.dropped))
    return Made(pairs[-1].prompt, pairs[-1].chosen, pairs[-1].rejected)


def cut_at_eos(tokenizer, made: Made) -> Made:
    eos = tokenizer.eos_token_id
    cut = lambda ids: ids[: ids.index(eos) + 1] if eos in ids else ids  # noqa: E731
    return made.changed(tuple, cut)


def with_eos(tokenizer, made: Made) -> Made:
    eos = (tokenizer.eos_token_id,)
    return made.changed(tuple, lambda ids: ids if eos[0] in ids else ids + eos)


def with_start(tokenizer, made: Made) -> Made:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return made.changed(lambda ids: ids or (eos if bos is None else bos,), tuple)


# How TRL's ids become ours, and what that says of either.
CHANGES: dict[str, tuple[Callable, str]] = {
    "a": (cut_at_eos, "TRL also learns what the template writes after the EOS, a line feed, which "
          "nobody generates; ours ends with the EOS"),
    "b": (with_eos, "This template ends an answer in another token than the EOS, and TRL leaves it "
          "at that; ours adds the EOS, at which sampling stops"),
    "c": (with_start, "TRL leaves the prompt empty, so that the answer's first token is not "
          "scored; ours begins with BOS or EOS"),
}  # fmt: skip


def _same_text(tokenizer, a: Made, b: Made) -> bool:
    sides = [(made.prompt + made.chosen, made.prompt + made.rejected) for made in (a, b)]
    return [*map(tokenizer.decode, sides[0])] == [*map(tokenizer.decode, sides[1])]


def _spelt(tokenizer, a: Made, b: Made) -> bool:
    """Whether an EOS that TRL has as a token is text in ours, and nothing else differs."""
    eos, mark = tokenizer.eos_token_id, tokenizer.eos_token
    spelt = False
    for one, other in ((a.prompt, b.prompt), (a.chosen, b.chosen), (a.rejected, b.rejected)):
        ours, theirs = tokenizer.decode(one), tokenizer.decode(other)
        if ours not in (theirs, theirs + mark):
            return False
        spelt |= ours.count(mark) > one.count(eos)
    return spelt


def _turned(refused: str, mark: str) -> bool:
    """Whether ours refuses a template whose prompt, with this mark in it, is not what it was."""
    after = refused.partition("changes the prompt when the answer follows")[2]
    return mark in after.partition("the conversation has")[0]


# What cannot be turned into ours: whether it is so, given both, and what it says.
RELATIONS: dict[str, tuple[Callable[[PreTrainedTokenizerFast, Made, Made], bool], str]] = {
    "d": (_spelt, "The name of a special token in a text is that token in TRL; here it is text, "
          "and the EOS comes after it"),
    "e": (lambda t, a, b: len(a.prompt) + max(len(a.chosen), len(a.rejected)) == SHORT
          and b.refused == "dropped", "TRL drops a pair whose prompt alone fills max_length; ours "
          "cuts the prompt from the left, and not a token more than needed"),
    "f": (lambda t, a, b: _turned(a.refused, "you saw.") and not b.refused,
          "This template writes the system message into the question that is last, and no longer "
          "does once an answer follows: ours refuses it; TRL trains without the system message, "
          "on the question as part of the answer"),
    "g": (lambda t, a, b: _turned(a.refused, "<think>") and not b.refused,
          "This template opens a thought where the answer is to be generated, and a finished "
          "conversation has none: ours refuses it; TRL trains on a prompt that ends before it"),
    "h": (lambda t, a, b: not a.refused and b.refused.startswith(("TypeError", "AttributeError")),
          "TRL stops with a TypeError or an AttributeError, as Python's hashes fall; ours reads it "
          "(UltraFeedback's form)"),
    "i": (lambda t, a, b: len(b.prompt) > len(a.prompt) and _same_text(t, a, b),
          "TRL takes all that both answers have in common for prompt, their first words "
          "included; ours ends it after the last `Assistant:`"),
    "j": (lambda t, a, b: 0 < len(b.prompt) < len(a.prompt) and _same_text(t, a, b),
          "TRL cuts prompt and answer together, ours apart: a token over the boundary belongs to "
          "TRL's answer; a note of ours says that the space belongs to the answer"),
    "k": (lambda t, a, b: "the histories of chosen and rejected differ" in a.refused
          and "<|im_start|>user" in t.decode(b.chosen), "Ours drops a pair whose answers follow "
          "different conversations; TRL trains on all that comes after their common part, the "
          "user's words included"),
}  # fmt: skip


def verdict(tokenizer, a: Made, b: Made) -> str:
    """Equal, both refuse, the letters of what explains it, or different."""
    if a == b:
        return "equal"
    if a.refused and b.refused:
        return "refused by both"
    for size in (1, 2) if not (a.refused or b.refused) else ():
        for letters in itertools.combinations(CHANGES, size):
            changed = b
            for letter in letters[::-1]:
                changed = CHANGES[letter][0](tokenizer, changed)
            if changed == a:
                return ", ".join(letters)
    found = [letter for letter, (holds, _) in RELATIONS.items() if holds(tokenizer, a, b)]
    return found[0] if found else DIFFERENT


def conversations(folder: Path) -> dict[str, dict[str, str]]:
    """A verdict for each template and conversation."""
    return {
        name: {
            said: _compared(folder, how, row, SHORT if "cut" in said else LONG)
            for said, row in CONVERSATIONS.items()
        }
        for name, how in TOKENIZERS.items()
    }


def texts(folder: Path) -> dict[str, str]:
    """A verdict for each row of plain text."""
    return {
        name: _compared(folder, how, row, SHORT if "cut" in name else LONG)
        for name, (how, row) in TEXTS.items()
    }


def _compared(folder: Path, how: tuple, row: dict, length: int) -> str:
    template, special, named = how
    tokenizer = tokenizer_of(template, special, named)
    # A file in which every prompt is empty is refused.
    rows = [FILM, row] if row.get("prompt") == "" else [row]
    found = (side(folder, tokenizer, rows, length) for side in (ours, theirs))
    return verdict(tokenizer, *found)
