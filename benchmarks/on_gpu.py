"""A section of what `scripts/gpu.py` measures: `benchmarks/on_gpu.py NAME [--dry-run]`.

The last line of what it prints is the section's JSON. NAME is `about`, `agreement`, `tests`,
`train`, or a side of `benchmarks/language_model.py`, say "ours, bf16". The small size is for a CPU.
"""

import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import language_model as bench  # the file beside this one; it finds the library
import torch

from dpo_lib.language_model.judging.evaluation import evaluate_settings
from dpo_lib.language_model.judging.training_log import read_log
from dpo_lib.language_model.scoring import stream
from dpo_lib.language_model.scoring.flex import why_not
from dpo_lib.language_model.scoring.logprobs import pair_sides, plain_logps, token_logps
from dpo_lib.language_model.settings import EvaluationSettings
from dpo_lib.language_model.training.run_folder import machine
from dpo_lib.losses import dpo_loss
from dpo_lib.results.about import commit, cpu
from dpo_lib.results.frontier import awake, dpo

WARM_UP = 4  # batches in which kernels are compiled
POINTS = 24  # of a stored curve
LOOP = ", in a loop"  # our step with the attention of a CPU
CURVES = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")


@dataclass(frozen=True)
class Size:
    """How large everything is; as it stands, for a GPU."""

    config: str = "gpt2"  # of benchmarks/language_model.py
    few: int = 4  # pairs on which GPU and CPU are compared
    batch: int = 32  # pairs of a step
    steps: int = 24  # batches that are timed
    model: str = "gpt2-random"
    pairs: int = 4000  # of the world
    sft: str = "--steps 300 --lr 3e-4 --batch-size 64"
    dpo: str = "--steps 62 --lr 2e-5 --batch-size 64"  # once through the pairs
    lora: str = "--lora 16 --lr 2e-4"
    held_out: int = 500  # pairs
    prompts: int = 200  # on which the policies are judged, by two completions each
    max_new_tokens: int = 96


FULL = Size()
DRY = Size(
    "smallv", 2, 2, 2, "tiny", 64, "--steps 2 --batch-size 32 --eval-every 2",
    "--steps 2 --batch-size 32 --eval-every 2", "--lora 4 --lr 2e-4", 32, 4, 8,
)  # fmt: skip


def about(size: Size) -> dict:
    """Card, driver, versions, commit, date, and the rate of a large matmul in FLOP/s."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        card = None
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "machine": machine() | {"cpu": cpu(), "card": card, "cuda": torch.version.cuda},
        "matmul_peak": {
            name: bench.matmul_peak(dtype)
            for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16))
        },
    }


def agreement(size: Size) -> dict:
    """A DPO step's log-probabilities and gradients beside the plain loop on the CPU, float32.

    Differences of a log-probability are of one token, relative to it where it is above 1 nat;
    those of a gradient are relative to the largest of its tensor, in bf16 a cosine of all.
    """
    _, width, heads, vocabulary = bench.CONFIGS[size.config]
    here, device = bench.random_model(size.config), torch.device(bench.DEVICE)
    with torch.no_grad():  # attention of fresh weights is uniform, which would hide a wrong mask
        for block in here.transformer.h:
            block.attn.c_attn.weight.mul_(3)
    there = copy.deepcopy(here).to(device)
    sequences = pair_sides(bench.random_pairs(size.few, vocabulary, seed=9))

    def step(model, score):
        logps = score(model, sequences)
        sums = torch.stack([x.sum() for x in logps]).view(-1, 2)
        dpo_loss(*sums.T, *sums.detach().T, bench.BETA).sum().backward()
        return torch.cat(logps).detach().cpu(), [p.grad.cpu() for p in model.parameters()]

    expected, exact = step(here, plain_logps)
    found = {}
    for name, dtype in (("float32", None), ("bf16", torch.bfloat16)):
        there.zero_grad()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logps, gradients = step(there, token_logps)
        pairs = list(zip(gradients, exact, strict=True))
        worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
        both = zip(*pairs, strict=True)
        flat = [torch.cat([x.flatten().double() for x in side]) for side in both]
        where = (device, dtype or torch.float32, heads, heads, width // heads, width // heads)
        loop = why_not(*where) if device.type == "cuda" else "no GPU"
        found[name] = {
            "logps": ((logps - expected).abs() / expected.abs().clamp(min=1)).max().item(),
            "gradients": worst,
            "cosine": torch.nn.functional.cosine_similarity(*flat, dim=0).item(),
            "attention": f"in a loop: {loop}" if loop else "one call a layer",
        }
    f32, bf16 = found["float32"], found["bf16"]
    found["holds"] = f32["logps"] <= 1e-5 and f32["gradients"] <= 1e-3
    found["holds"] &= bf16["logps"] <= 0.02 and bf16["cosine"] >= 0.99
    return found


def tests(size: Size) -> dict:
    """The tests that need a GPU, by their names; without one they are skipped."""
    import pytest

    with tempfile.TemporaryDirectory() as folder:
        report = f"{folder}/report.xml"
        asked = ["-q", "-k", "gpu", "-p", "no:cacheprovider", "--noconftest"]
        asked += ["-W", "default"]  # a compiler's warnings are no failures
        asked += [f"--rootdir={bench.ROOT}", f"--junitxml={report}"]
        pytest.main([*asked, str(bench.ROOT / "tests/language_model/scoring")])
        cases = list(ElementTree.parse(report).iter("testcase"))
    ended = {case.get("name"): {child.tag for child in case} for case in cases}
    failed = sorted(name for name, tags in ended.items() if tags & {"failure", "error"})
    skipped = sum("skipped" in tags for tags in ended.values())
    return {"passed": len(cases) - skipped - len(failed), "skipped": skipped, "failed": failed}


def speed(size: Size, name: str) -> dict:
    """Real tokens a second of one side's DPO step, its share of the matmul peak, its memory."""
    vocabulary = bench.CONFIGS[size.config][3]
    pairs = bench.random_pairs((WARM_UP + size.steps) * size.batch, vocabulary)
    peak, batches, side = bench.Peak(), bench.cut(pairs, size.batch), name.removesuffix(LOOP)
    if name.endswith(LOOP):
        stream.is_one_call = lambda *heads: False
    if name.startswith("TRL"):
        trl, bf16 = name.removesuffix(", bf16"), name.endswith(", bf16")
        result = bench.beside_trl(size.config, trl, bf16, [], pairs, size.batch)
        batches, seconds = result["batches"], result["seconds"][name]
    else:
        stepped = bench.SIDES[side](size.config)
        if isinstance(stepped, bench.Ours):
            for batch in batches:
                stepped.score(batch)
            stepped.reference = None  # as `dpo` does when the data are scored
        seconds = [stepped.step(batch) for batch in batches]
    timed = list(zip(batches, seconds, strict=True))[WARM_UP:]
    flops = statistics.median(bench.useful_flops(b, size.config) / s for b, s in timed)
    return {
        "pairs": size.batch,
        "steps": len(timed),
        "seconds": statistics.median(s for _, s in timed),
        "tokens_per_second": statistics.median(bench.real_tokens(b) / s for b, s in timed),
        "flops": flops,  # useful ones, a second
        "peak_mib": peak.mib(),
    }


def train(size: Size) -> dict:
    """SFT, then DPO at two betas and with an adapter; logs, curves, true reward and KL."""
    with tempfile.TemporaryDirectory() as folder:
        world, runs = Path(folder) / "world", Path(folder)
        dpo("world", "--out", world, "--pairs", size.pairs, "--labels", "deterministic")
        rows = (world / "test_preferences.jsonl").read_text().splitlines(keepends=True)
        held_out = Path(folder) / "held_out.jsonl"
        held_out.write_text("".join(rows[: size.held_out]))
        common = ["--data", world, "--eval-data", held_out, "--optimizer", "adamw"]
        common += ["--warmup-steps", 10, "--save-every", 10_000]
        start = ["dpo", "--model", runs / "SFT/model", *common, *size.dpo.split(), "--beta"]
        commands = {"SFT": ["sft", "--model", size.model, *common, *size.sft.split()]}
        commands |= {f"DPO {beta}": [*start, beta] for beta in (0.1, 1)}
        if find_spec("peft"):
            commands |= {"DPO 0.1, LoRA": [*start, 0.1, *size.lora.split()]}
        found = {}
        for name, command in commands.items():
            command += ["--out", runs / name]
            dpo(*command)
            text = " ".join(map(str, ("dpo", *command))).replace(folder, "OUT")
            found[name] = {"command": text} | record(runs / name)
        sft, *policies = (str(runs / name / "model") for name in commands)
        given = EvaluationSettings(
            model=policies,
            reference=sft,
            data=str(world),
            prompts=size.prompts,
            samples=2,
            max_new_tokens=size.max_new_tokens,
            batch_size=200,
        )
        report = evaluate_settings(given, tell=print)
    rows = zip(list(commands)[1:], report["policies"], strict=True)
    judged = [row | {"name": name} for name, row in rows]
    return {"model": size.model, "runs": found, "policies": judged, "sft": report["reference"]}


def record(run: Path) -> dict:
    """Speed and curves of a run, training and held-out, as (step, value)."""
    log = read_log(run)
    lines = (run / "timing.jsonl").read_text().splitlines()
    seconds = awake([json.loads(line)["seconds"] for line in lines])
    return {
        "steps": len(lines),
        "seconds": seconds,
        "tokens_per_second": log.series("num_tokens")[-1][1] / seconds,
        "curves": {name: thinned(log.series(name)) for name in CURVES if log.series(name)},
        "held_out": {name: thinned(log.held_out(name)) for name in CURVES if log.held_out(name)},
    }


def thinned(curve: list) -> list:
    """At most so many of its points, the ends among them."""
    kept = sorted({round(k * (len(curve) - 1) / (POINTS - 1)) for k in range(POINTS)})
    return [curve[k] for k in kept]


def compute(name: str, size: Size) -> dict:
    """The section of a name."""
    whole = {"about": about, "agreement": agreement, "tests": tests, "train": train}
    return whole[name](size) if name in whole else speed(size, name)


if __name__ == "__main__":
    bench.transformers.logging.set_verbosity_error()
    print(json.dumps(compute(sys.argv[1], DRY if "--dry-run" in sys.argv else FULL)))
