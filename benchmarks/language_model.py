"""A DPO step of ours, of a plain PyTorch loop, and of TRL, in one interleaved run.

    python benchmarks/language_model.py                       small and smallv, against plain
    python benchmarks/language_model.py small smallv --trl    against TRL, in .venv-trl
    python benchmarks/language_model.py gpt2 --trl --bf16 --pairs 40
                                                              the 124M model: 20 GiB, 50 minutes
    python benchmarks/language_model.py gpt2 --lora --batch 4 --pairs 16
                                                              an adapter against all weights

Random weights, chat-like log-normal lengths. Every batch is stepped by all sides one after the
other, so that noise meets them alike; a ratio is the median over batches. Peak memory comes from
one process for each side. A real token is one that a padding-free program without shared prompts
would process: the prompt twice, and both completions. Every side is divided by ours. The plain
step is what one writes at first: padded rows, logits everywhere, the reference asked in every
step, AdamW as it comes. Ours knows the reference's log-probabilities, as TRL best does; the
column "one epoch" charges that pass to every step of ours alone, as if data were seen once. The
peak has it in it: the reference scores every batch before the first step.
"""

import argparse
import ast
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is downloaded
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore", category=FutureWarning)  # between TRL and transformers

import torch  # noqa: E402
import transformers  # noqa: E402
from torch.nn.utils import clip_grad_norm_  # noqa: E402

sys.path.insert(0, str(ROOT))
from dpo_lib.language_model.models.adapters.layers import add_adapter, require_peft  # noqa: E402
from dpo_lib.language_model.models.policies import frozen_copy  # noqa: E402
from dpo_lib.language_model.scoring.logprobs import pair_logps, pair_logps_in_parts, plain_logps  # noqa: E402
from dpo_lib.language_model.settings import SFTSettings  # noqa: E402
from dpo_lib.losses import dpo_loss  # noqa: E402

CONFIGS = {  # layers, width, heads, vocabulary
    "smallv": (4, 128, 4, 512),
    "small": (4, 128, 4, 50257),
    "gpt2": (12, 768, 12, 50257),
}
PROMPT, COMPLETION = (128, 0.5, 64, 256), (64, 0.8, 16, 256)  # median, sigma, least, most
PAD, EOS = 0, 1
BETA = 0.1
RANK = 16  # of the adapter
WARM_UP = 2  # batches that are stepped and not counted
seconds_now = time.perf_counter  # or time.process_time, with --busy
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRL_SIDES = {
    "TRL default": dict(),
    "TRL best": dict(
        precompute_ref_log_probs=True,
        gradient_checkpointing=False,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        remove_unused_columns=False,  # or the lengths are dropped before the sampler sees them
    ),
}


def random_pairs(count: int, vocabulary: int, seed: int = 0) -> list[SimpleNamespace]:
    """Preference pairs as token ids; every completion ends in EOS."""
    rng = random.Random(seed)

    def tokens(median, sigma, least, most):
        length = round(median * math.exp(rng.gauss(0, sigma)))
        return tuple(rng.randrange(2, vocabulary) for _ in range(min(most, max(least, length))))

    def pair():
        prompt, chosen, rejected = tokens(*PROMPT), tokens(*COMPLETION), tokens(*COMPLETION)
        return SimpleNamespace(
            prompt=prompt, chosen=(*chosen[:-1], EOS), rejected=(*rejected[:-1], EOS)
        )

    return [pair() for _ in range(count)]


def real_tokens(pairs) -> int:
    return sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs)


def random_model(config: str, activation: str = "gelu_new") -> transformers.PreTrainedModel:
    layers, width, heads, vocabulary = CONFIGS[config]
    torch.manual_seed(0)
    settings = transformers.GPT2Config(
        vocab_size=vocabulary, n_layer=layers, n_embd=width, n_head=heads, bos_token_id=EOS,
        eos_token_id=EOS, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        activation_function=activation,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(settings)


def useful_flops(pairs, config: str) -> float:
    """Of a step: prompt once, the vocabulary at completion positions, forward times three."""
    layers, width, _, vocabulary = CONFIGS[config]
    total = 0
    for p in pairs:
        prompt, completions = len(p.prompt), (len(p.chosen), len(p.rejected))
        total += (prompt + sum(completions)) * layers * 24 * width**2
        keys = prompt**2 / 2 + sum(c * prompt + c**2 / 2 for c in completions)
        total += keys * layers * 4 * width
        total += sum(completions) * 2 * width * vocabulary
    return 3 * total


class Side:
    """A policy, its reference and its optimiser; `step` trains on a batch of pairs."""

    activation = "gelu_new"

    def __init__(self, config: str, bf16: bool = False, **optimizer):
        self.model = self.prepare(random_model(config, self.activation).to(DEVICE))
        self.reference = frozen_copy(self.model)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6, **optimizer)
        self.bf16 = bf16

    def prepare(self, model):
        return model

    def precision(self):
        return torch.autocast(DEVICE, torch.bfloat16) if self.bf16 else nullcontext()

    def update(self) -> None:
        """One optimiser step."""
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Ours(Side):
    activation = "gelu_pytorch_tanh"  # as in every model that the library loads

    def __init__(self, config: str, bf16: bool = False):
        super().__init__(config, bf16, fused=True)
        self.reference_seconds = []  # of one pass over each batch, outside the step
        self.scores = {}

    def score(self, pairs) -> None:
        """The reference's pass over a batch."""
        start = clock()
        with torch.no_grad(), self.precision():
            self.scores[pairs[0].prompt] = pair_logps(self.reference, pairs)
        self.reference_seconds.append(clock() - start)

    def step(self, pairs) -> float:
        if pairs[0].prompt not in self.scores:
            self.score(pairs)
        reference = self.scores[pairs[0].prompt]
        start = clock()
        for part, logps in pair_logps_in_parts(self.model, pairs, self.precision):
            loss = dpo_loss(*logps.T, *reference[part].T, BETA).sum() / len(pairs)
            loss.backward()
        self.update()
        return clock() - start


class OursLoRA(Ours):
    def prepare(self, model):
        return add_adapter(model, SFTSettings(model="", data="", out="", lora=RANK))


class Plain(Side):
    def step(self, pairs) -> float:
        start = clock()
        rows = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
        longest = max(len(prompt) + len(completion) for prompt, completion in rows)
        ids = torch.full((len(rows), longest), PAD)
        mask, scored = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, (prompt, completion) in enumerate(rows):
            end = len(prompt) + len(completion)
            ids[row, :end] = torch.tensor(prompt + completion)
            mask[row, :end], scored[row, len(prompt) : end] = 1, 1
        batch = ids.to(DEVICE), mask.to(DEVICE), scored.to(DEVICE)
        with torch.no_grad():
            reference = self.logps(self.reference, *batch)
        logps = self.logps(self.model, *batch)
        dpo_loss(*logps.T, *reference.T, BETA).mean().backward()
        self.update()
        return clock() - start

    def logps(self, model, ids, mask, scored) -> torch.Tensor:
        with self.precision():
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        logps = logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return (logps * scored[:, 1:]).sum(-1).view(2, -1).T  # (pairs, 2)


SIDES = {
    "plain": Plain,
    "plain, bf16": lambda config: Plain(config, bf16=True),
    "ours": Ours,
    "ours, bf16": lambda config: Ours(config, bf16=True),
    "ours, LoRA": OursLoRA,
    "ours, LoRA, bf16": lambda config: OursLoRA(config, bf16=True),
}


def clock() -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return seconds_now()


def check_same_numbers(config: str) -> None:
    """All sides must agree on what they compute before their times mean anything."""
    pairs, plain = random_pairs(3, CONFIGS[config][3], seed=9), Plain(config)
    ours = Ours(config)
    sides = [(p.prompt, side) for p in pairs for side in (p.chosen, p.rejected)]
    with torch.no_grad():
        expected = torch.stack([x.sum() for x in plain_logps(plain.model, sides)]).view(-1, 2)
        torch.testing.assert_close(pair_logps(ours.model, pairs), expected)


def interleaved(config: str, names: list[str], batches: list) -> dict:
    """Seconds of each side on each batch, the sides one after the other."""
    sides = {name: SIDES[name](config) for name in names}
    seconds = {name: [] for name in names}
    for batch in batches:
        for name, side in sides.items():
            seconds[name].append(side.step(batch))
    return dict(seconds=seconds, batches=batches, reference=reference_of(sides))


def reference_of(sides: dict) -> dict:
    return {n: side.reference_seconds for n, side in sides.items() if isinstance(side, Ours)}


def trl_trainer(config: str, name: str, pairs, batch: int, bf16: bool, folder: str):
    """TRL's own trainer on exactly these token ids, through a tokenizer with a word for each."""
    from datasets import Dataset, disable_progress_bars
    from tokenizers import Tokenizer, models, pre_tokenizers
    from trl import DPOConfig, DPOTrainer

    disable_progress_bars()
    words = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, CONFIGS[config][3])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    )

    def text(ids):
        return " ".join(f"w{i}" for i in ids)

    rows = [
        dict(
            prompt=text(p.prompt),
            chosen=f" {text(p.chosen[:-1])} <eos>",
            rejected=f" {text(p.rejected[:-1])} <eos>",
            length=len(p.prompt) + max(len(p.chosen), len(p.rejected)),
        )
        for p in pairs
    ]
    random_model(config).save_pretrained(f"{folder}/model")
    settings = DPOConfig(
        output_dir=f"{folder}/out", per_device_train_batch_size=batch, num_train_epochs=1,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=DEVICE == "cpu",
        dataloader_pin_memory=DEVICE == "cuda", seed=1, bf16=bf16, max_grad_norm=1.0, beta=BETA,
        **TRL_SIDES[name],
    )  # fmt: skip
    return DPOTrainer(
        model=f"{folder}/model",
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def beside_trl(config: str, trl: str, bf16: bool, names: list[str], pairs, batch: int) -> dict:
    """As `interleaved`; after each of TRL's steps the others take theirs, on the same pairs."""
    sides = {name: SIDES[name](config) for name in names}
    label = trl + (", bf16" if bf16 else "")
    seconds, batches = {name: [] for name in [label, *names]}, []
    by_prompt = {p.prompt: p for p in pairs}
    collated = []  # TRL looks ahead by a batch, so they wait here for their step

    class Turns(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.start = clock()

        def on_step_end(self, *_, **__):
            seconds[label].append(clock() - self.start)
            batches.append(collated[len(batches)])
            for name, side in sides.items():
                seconds[name].append(side.step(batches[-1]))

    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(config, trl, pairs, batch, bf16, folder)
        trainer.add_callback(Turns())
        collate = trainer.data_collator

        def watched(examples):
            collated.append([by_prompt[tuple(e["prompt_ids"])] for e in examples])
            return collate(examples)

        trainer.data_collator = watched
        trainer.train()
    return dict(seconds=seconds, batches=batches, reference=reference_of(sides))


def peak_mib(config: str, name: str, pairs, batch: int) -> float:
    """Peak memory of one side above what was there before its model; run it in a new process."""
    if "LoRA" in name:
        require_peft()  # whose import is no part of a step
    peak = Peak()
    if name.startswith("TRL"):
        trl, bf16 = name.removesuffix(", bf16"), name.endswith(", bf16")
        beside_trl(config, trl, bf16, [], pairs, batch)
    else:
        side, batches = SIDES[name](config), cut(pairs, batch)
        if isinstance(side, Ours):
            for each in batches:
                side.score(each)
            side.reference = None  # as `dpo` does when the data are scored
        for each in batches:
            side.step(each)
    return peak.mib()


class Peak:
    """Resident memory on a CPU, looked at every 5 ms; torch's own count on a GPU."""

    def __init__(self):
        self.highest = self.before = self.resident()
        if DEVICE == "cpu":
            threading.Thread(target=self.watch, daemon=True).start()

    def resident(self) -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def watch(self):
        while True:
            self.highest = max(self.highest, self.resident())
            time.sleep(0.005)

    def mib(self) -> float:
        if DEVICE == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return self.highest - self.before


def matmul_peak(dtype: torch.dtype) -> float:
    """FLOPs a second of a large square product, the best of ten."""
    size = 8192 if DEVICE == "cuda" else 2048
    a = torch.randn(size, size, device=DEVICE, dtype=dtype)
    best = math.inf
    for _ in range(10):
        start = clock()
        a @ a
        best = min(best, clock() - start)
    return 2 * size**3 / best


def cut(pairs, batch: int) -> list:
    return [pairs[i : i + batch] for i in range(0, len(pairs), batch)]


def in_new_process(python: str, *arguments: str) -> dict | float:
    """This script's answer to --part, from a process (and an environment) of its own."""
    command = [python, __file__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def trl_python() -> str:
    """The interpreter of .venv-trl, made at the first call; TRL is no dependency of ours."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from trl_oracle import python_with_trl

    return str(python_with_trl())


def median_ratio(seconds: dict, name: str, base: list[float]) -> float:
    pairs = zip(seconds[name][WARM_UP:], base[WARM_UP:], strict=True)
    return statistics.median(a / b for a, b in pairs)


def rows_of(config: str, result: dict, memory: dict, peaks: dict) -> list[str]:
    """The lines of the table: every side of one interleaved run over ours."""
    batches = result["batches"][WARM_UP:]
    lines = []
    for name, times in result["seconds"].items():
        per_token = statistics.median(
            t / real_tokens(b) for t, b in zip(times[WARM_UP:], batches, strict=True)
        )
        share = (
            statistics.median(
                useful_flops(b, config) / t for t, b in zip(times[WARM_UP:], batches, strict=True)
            )
            / peaks["bf16" if "bf16" in name or name == "TRL default" else "f32"]
        )
        cells = [config, name, f"{1e6 * per_token:.1f}", f"{share:.0%}", f"{memory[name]:.0f}"]
        for ours in ("ours", "ours, bf16"):
            if ours not in result["seconds"]:
                continue
            steps, passes = result["seconds"][ours], result["reference"][ours]
            epoch = [a + b for a, b in zip(steps, passes, strict=True)]
            cells += [
                f"{median_ratio(result['seconds'], name, steps):.1f}×",
                f"{median_ratio(result['seconds'], name, epoch):.1f}×",
                f"{memory[name] / memory[ours]:.2f}×",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", default=["smallv", "small"], metavar="config")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8, help="pairs in a step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--busy", action="store_true", help="CPU seconds: for a machine others use, with 1 thread"
    )
    parser.add_argument("--bf16", action="store_true", help="also the sides under bf16 autocast")
    parser.add_argument("--lora", action="store_true", help="an adapter against all weights, only")
    parser.add_argument("--trl", action="store_true", help="also TRL (makes .venv-trl)")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)  # what a new process does
    arguments = parser.parse_args()
    if unknown := set(arguments.configs) - set(CONFIGS):
        parser.error(f"config must be one of {', '.join(CONFIGS)}, got {', '.join(unknown)}")
    if arguments.pairs <= WARM_UP * arguments.batch:
        parser.error(f"--pairs must be more than {WARM_UP} batches, got {arguments.pairs}")
    torch.set_num_threads(arguments.threads)
    if arguments.busy:
        global seconds_now
        seconds_now = time.process_time
    transformers.logging.set_verbosity_error()
    if arguments.part:
        print(json.dumps(part(arguments), default=vars))
    else:
        table(arguments)


def part(arguments) -> dict | float:
    task, config, *names = arguments.part
    pairs = random_pairs(arguments.pairs, CONFIGS[config][3])
    if task == "memory":
        few = pairs[: 3 * arguments.batch]
        return peak_mib(config, names[0], few, arguments.batch)
    if task == "plain":
        return interleaved(config, names, cut(pairs, arguments.batch))
    trl, bf16 = names[0].removesuffix(", bf16"), names[0].endswith(", bf16")
    return beside_trl(config, trl, bf16, names[1:], pairs, arguments.batch)


def table(arguments) -> None:
    python = trl_python() if arguments.trl else sys.executable
    peaks = {"f32": matmul_peak(torch.float32), "bf16": matmul_peak(torch.bfloat16)}
    ours = ["ours", "ours, bf16"] if arguments.bf16 else ["ours"]
    plain = ["plain", "plain, bf16"] if arguments.bf16 else ["plain"]
    runs = [("plain", [*plain, *ours])]
    if arguments.lora:
        runs = [("plain", [*ours, *(name.replace("ours", "ours, LoRA") for name in ours)])]
    elif arguments.trl:
        best = ["TRL best", "TRL best, bf16"] if arguments.bf16 else ["TRL best"]
        runs += [("trl", [name, *ours]) for name in ("TRL default, bf16", *best)]
    print(machine(arguments, python, peaks))
    head = ["config", "step", "µs a real token", "of matmul peak", "peak MiB"]
    for name in ours:
        head += [f"time / {name}", "one epoch", "memory"]
    print("\n| " + " | ".join(head) + " |")
    print("|---|---" + "|---:" * (len(head) - 2) + "|")
    shared = ["--pairs", arguments.pairs, "--batch", arguments.batch]
    shared += ["--threads", arguments.threads, *["--busy"] * arguments.busy, "--part"]
    shared = [str(x) for x in shared]
    for config in arguments.configs:
        check_same_numbers(config)
        memory = {}
        for task, names in runs:
            for name in names:
                if name not in memory:
                    memory[name] = in_new_process(python, *shared, "memory", config, name)
            result = in_new_process(python, *shared, task, config, *names)
            result["batches"] = [[SimpleNamespace(**p) for p in b] for b in result["batches"]]
            for line in rows_of(config, result, memory, peaks):
                print(line, flush=True)


def machine(arguments, python: str, peaks: dict) -> str:
    """One paragraph: what ran, where."""
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else processor()
    code = "import importlib.metadata as m; print([d.name + ' ' + d.version for d in"
    code += " m.distributions() if d.name in ('torch', 'transformers', 'trl')])"
    versions = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    versions = ", ".join(sorted(ast.literal_eval(versions.stdout)))
    rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in peaks.items())
    return (
        f"{device}, {arguments.threads} threads, Python {platform.python_version()}, {versions}; "
        f"{'CPU' if arguments.busy else 'wall'} seconds; matmul peak {rates}; "
        f"{arguments.pairs} pairs in batches of {arguments.batch}, float32 unless said, "
        f"allocator settings as they come"
    )


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(": ", 1)[1]
    return platform.processor()


if __name__ == "__main__":
    main()
