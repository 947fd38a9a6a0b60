"""Every loss against TRL's own trainers, value and gradient, through a model.

TRL makes a batch of pairs of unequal lengths, computes its loss in its trainer and goes back to
the parameters; ours is the mean of `choose_loss` at our summed log-probabilities of the same token
ids, all in float64. TRL's DPO and KTO trainers take log-probabilities in float32 whatever the
model is, so each claim is tried twice: with TRL as it comes, to float32's rounding, and with a
head in float64 in its place, to float64's.

A loss enters by a line of `CLAIMS`, and is looked up when it is compared: one that the library
does not have yet is a row that says so.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from dpo_lib.language_model.data.tokens import Pair
from dpo_lib.language_model.scoring.logprobs import completion_logps, pair_logps
from dpo_lib.unpaired import kto_loss
from dpo_lib.variants import LOSSES, choose_loss
from oracle.folders import SHAPES, pairs_as_text
from oracle.rows import DIFFERENT, EQUAL, Row, judged, relative

BETAS = (0.1, 0.5)
AS_IT_COMES, EXACT = 1e-5, 1e-11  # relative, of value and gradient
PLAIN = dict(report_to="none", disable_tqdm=True, use_cpu=True, bf16=False, save_strategy="no",
             gradient_checkpointing=False, dataloader_pin_memory=False)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Our side of a batch: log-probabilities (pairs, 2) of policy and reference, and lengths."""

    logps: Tensor
    ref_logps: Tensor
    lengths: Tensor
    whole_nll: Tensor  # mean over all tokens of prompts and chosen answers, as ORPO's in TRL


@dataclass(frozen=True)
class Claim:
    """That a loss of ours is one of TRL's.

    name: ours.
    ours: settings for `choose_loss` beside beta, the second one in the second run.
    theirs: settings of TRL's beside beta, likewise.
    trainer: TRL's class; its configuration is `CONFIGS[trainer]`.
    label: what the row is called, if not by the name.
    averaged: ours is taken at log-probabilities divided by their lengths.
    no_reference: ours is taken at reference log-probabilities of 0.
    float32: TRL computes a part of this loss in float32.
    why: excuses a difference; `cause` then makes ours from a batch with that reason taken away,
        and must be equal.
    """

    name: str
    ours: tuple[dict, dict] = ({}, {})
    theirs: tuple[dict, dict] | None = None  # the same as ours
    trainer: type = DPOTrainer
    label: str = ""
    averaged: bool = False
    no_reference: bool = False
    float32: bool = False
    why: str = ""
    cause: Callable[[Batch, dict], Tensor] | None = field(default=None, repr=False)


CONFIGS = {DPOTrainer: DPOConfig, CPOTrainer: CPOConfig, ORPOTrainer: ORPOConfig,
           KTOTrainer: KTOConfig}  # fmt: skip


def both(**settings) -> tuple[dict, dict]:
    """Two settings: a tuple is one value for each run."""
    return tuple(
        {key: v[run] if isinstance(v, tuple) else v for key, v in settings.items()}
        for run in (0, 1)
    )


SMOOTHED = both(label_smoothing=(0.1, 0.25))
EXO = both(label_smoothing=(0.001, 0.1))
SFT = dict(loss_type=["sigmoid", "sft"])


def per_token(name: str) -> Callable[[Batch, dict], Tensor]:
    """Ours at log-probabilities per token."""
    return lambda batch, settings: _ours(Claim(name, averaged=True), batch, settings)


def with_batch_sft(batch: Batch, settings: dict) -> Tensor:
    """DPO and an SFT term that is the mean over all tokens of the batch."""
    nll = -batch.logps[:, 0].sum() / batch.lengths[:, 0].sum()
    plain = _ours(Claim("sigmoid"), batch, {"beta": settings["beta"]})
    return plain + settings["rpo_alpha"] * nll


def with_whole_nll(batch: Batch, settings: dict) -> Tensor:
    """ORPO with the likelihood of prompt and answer in the place of the answer's."""
    own = -(batch.logps / batch.lengths)[:, 0]
    return _ours(Claim("orpo"), batch, settings) - own + batch.whole_nll


CLAIMS = [
    Claim("sigmoid"),
    Claim("hinge"),
    Claim("ipo", why="TRL divides each log-ratio by its length, (17) of the paper does not; equal "
          "at log-probabilities per token", cause=per_token("ipo")),
    Claim("cdpo", SMOOTHED, both(loss_type="sigmoid", label_smoothing=(0.1, 0.25)),
          why="TRL 1.16's `sigmoid` ignores label_smoothing: it is ours without smoothing",
          cause=lambda batch, settings: _ours(Claim("sigmoid"), batch, {"beta": settings["beta"]})),
    Claim("cdpo", SMOOTHED, both(loss_type="sigmoid", label_smoothing=(0.1, 0.25), cpo_alpha=0.0),
          CPOTrainer, label="cdpo, reference at 0, in TRL's `CPOTrainer`", no_reference=True),
    Claim("robust", SMOOTHED),
    Claim("exo_pair", EXO),
    Claim("nca_pair"),
    Claim("bco_pair"),
    Claim("sppo_hard"),
    Claim("apo_zero"),
    Claim("apo_down"),
    Claim("discopop"),
    Claim("sigmoid_norm"),
    Claim("simpo", both(simpo_gamma=(0.5, 1.2)), both(loss_type="simpo", simpo_gamma=(0.5, 1.2),
          cpo_alpha=0.0), CPOTrainer),
    Claim("orpo", theirs=({}, {}), trainer=ORPOTrainer, float32=True,
          why="TRL's SFT term is the mean over all tokens of the batch, prompts among them, the "
          "paper's over each answer's; equal with TRL's in its place", cause=with_whole_nll),
    Claim("kto", both(desirable_weight=(1.0, 1.5), undesirable_weight=(1.0, 0.7)),
          trainer=KTOTrainer),
    Claim("sigmoid", both(rpo_alpha=(1.0, 0.2)), both(**SFT, loss_weights=([1, 1], [1, 0.2])),
          label="sigmoid, rpo_alpha (TRL: sigmoid + sft)",
          why="TRL's SFT term is the mean over all tokens of the batch, the paper's over each "
          "answer's; equal with TRL's in its place", cause=with_batch_sft),
    *(Claim("sigmoid", both(f_divergence_type=name, **more),
            both(loss_type="sigmoid", f_divergence_type=name, **more), label=f"sigmoid, {name}",
            float32=name == "alpha_divergence")
      for name, more in {"reverse_kl": {}, "forward_kl": {}, "js_divergence": {},
                         "alpha_divergence": dict(f_alpha_divergence_coef=(0.5, 0.8))}.items()),
]  # fmt: skip
NOT_IN_TRL = ("unlikelihood", "dpop", "rdpo")
NOT_HERE = "aot and aot_unpaired (no pair has a loss of its own), use_weighting (WPO), ld_alpha"


def compare(folder: Path, tokenizer) -> tuple[list[Row], float]:
    """A row for each claim, over both shapes of model and both settings; then what TRL lacks.

    Returns:
        the rows, and how far TRL as it comes was from ours where they are equal.
    """
    rows, rounding = [], 0.0
    for claim in CLAIMS:
        row, rounded = _row(claim, folder, tokenizer)
        rows.append(row)
        rounding = max(rounding, rounded)
    lacking = [Row(name, "", "", None, "TRL has none") for name in NOT_IN_TRL if name in LOSSES]
    return rows + lacking, rounding


def _row(claim: Claim, folder: Path, tokenizer) -> tuple[Row, float]:
    label = claim.label or claim.name
    run = _kto_run if claim.trainer is KTOTrainer else _run
    rounded = [run(claim, folder, shape, n, tokenizer) for shape in SHAPES for n in (0, 1)]
    with nullcontext() if claim.float32 else exact_heads():
        # Llama normalises in float32 even when it is float64.
        exact = [run(claim, folder, "gpt2", n, tokenizer) for n in (0, 1)]
    apart, rounding = (max(one["apart"] for one in runs) for runs in (exact, rounded))
    tolerance = AS_IT_COMES if claim.float32 else EXACT
    caused = claim.cause is not None and max(one["caused"] for one in exact) <= tolerance
    verdict = judged(apart, tolerance, claim.why, caused)
    if verdict == EQUAL and rounding > AS_IT_COMES:
        verdict = DIFFERENT
    row = Row(label, exact[0]["ours"], exact[0]["trl"], apart, verdict)
    return row, rounding if verdict == EQUAL else 0.0


@contextmanager
def exact_heads() -> Iterator[None]:
    """TRL's log-probabilities in float64: from the model's logits, not from its float32 head."""
    torch.set_default_dtype(torch.float64)
    try:
        with ExitStack() as stack:
            for module in ("dpo_trainer", "kto_trainer"):
                stack.enter_context(patch(f"trl.trainer.{module}.add_fused_lm_head", _plain_head))
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def _plain_head(model: PreTrainedModel, **_) -> None:
    """In the place of `add_fused_lm_head`; what only the log shows is left blank."""
    logits_of = model.forward

    def forward(*args, fused_lm_head=False, labels=None, **kwargs):
        output = logits_of(*args, **kwargs)
        if not fused_lm_head:
            return output
        kept = labels[:, 1:] != -100
        targets = labels[:, 1:].clamp(min=0)[..., None]
        logps = output.logits[:, :-1].log_softmax(-1).gather(-1, targets)[..., 0] * kept
        return with_blanks(logps)

    model.forward = forward


def with_blanks(logps: Tensor) -> SimpleNamespace:
    blank = torch.zeros_like(logps)
    return SimpleNamespace(log_probs=logps, entropy=blank, mean_logits=blank, is_top1=blank.bool())


def _run(claim: Claim, folder: Path, shape: str, run: int, tokenizer) -> dict[str, float]:
    """Both losses, and how far they or their gradients are apart, relative."""
    beta = {"beta": BETAS[run]}
    ours = claim.ours[run] | beta
    theirs = (claim.theirs or both(loss_type=claim.name, **claim.ours[run]))[run] | beta
    rows = pairs_as_text(6, seed=run)
    trainer = make_trainer(claim.trainer, folder, shape, tokenizer, rows, **theirs)
    loss, gradient = _theirs(trainer)
    policy, reference = (_load(folder, shape, role) for role in ("policy", "reference"))
    pairs, found = _pairs(trainer.train_dataset), {"trl": loss, "caused": 0.0}
    makers = {"apart": lambda batch, settings: _ours(claim, batch, settings)}
    for key, maker in (makers | ({"caused": claim.cause} if claim.cause else {})).items():
        value = maker(_batch(policy, reference, pairs), ours).mean()
        found[key] = max(relative(value.item(), loss), _apart(_gradient(value, policy), gradient))
        found.setdefault("ours", value.item())
    return found


def make_trainer(trainer: type, folder: Path, shape: str, tokenizer, rows: list[dict], **settings):
    """TRL's own trainer on rows of text, all in one batch, on models in float64."""
    config = CONFIGS[trainer](
        output_dir=str(folder / "trl"), per_device_train_batch_size=len(rows), **PLAIN, **settings
    )
    has_reference = trainer in (DPOTrainer, KTOTrainer)
    models = {"model": _load(folder, shape, "policy")}
    if has_reference:
        models["ref_model"] = _load(folder, shape, "reference")
    return trainer(
        **models, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )


def _load(folder: Path, shape: str, role: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder / f"{shape}-{role}", dtype=torch.float64)


def _theirs(trainer) -> tuple[float, Tensor]:
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    return loss.item(), _gradient(loss, trainer.model)


def _gradient(loss: Tensor, model: PreTrainedModel) -> Tensor:
    """All parameters' gradients in one vector, in the order of their names."""
    model.zero_grad()
    loss.backward()
    named = sorted(model.named_parameters())
    return torch.cat([parameter.grad.double().flatten() for _, parameter in named])


def _apart(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the larger norm."""
    return ((a - b).norm() / (torch.maximum(a.norm(), b.norm()) or 1)).item()


def _pairs(dataset: Dataset) -> list[Pair]:
    """The token ids that a trainer made of its rows."""
    if "prompt_ids" in dataset.column_names:
        columns = [dataset[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
        return [Pair(*map(tuple, row)) for row in zip(*columns, strict=True)]
    found = []
    for row in dataset:  # CPO and ORPO keep the whole sequence, and labels of -100 in the prompt
        sides = [
            (row[f"{side}_input_ids"], row[f"{side}_labels"]) for side in ("chosen", "rejected")
        ]
        cut = sum(label == -100 for label in sides[0][1])
        found.append(Pair(tuple(sides[0][0][:cut]), *(tuple(ids[cut:]) for ids, _ in sides)))
    return found


def _batch(policy: PreTrainedModel, reference: PreTrainedModel, pairs: list[Pair]) -> Batch:
    with torch.no_grad():
        ref_logps = pair_logps(reference, pairs)
    lengths = torch.tensor([[len(pair.chosen), len(pair.rejected)] for pair in pairs])
    whole = [(pair.prompt[:1], pair.prompt[1:] + pair.chosen) for pair in pairs]
    nll = -completion_logps(policy, whole).sum() / sum(len(rest) for _, rest in whole)
    return Batch(pair_logps(policy, pairs), ref_logps, lengths, nll)


def _ours(claim: Claim, batch: Batch, settings: dict) -> Tensor:
    """`choose_loss` of every pair."""
    logps, ref_logps = batch.logps, batch.ref_logps * (not claim.no_reference)
    if claim.averaged:
        logps, ref_logps = logps / batch.lengths, ref_logps / batch.lengths
    given = [*logps.unbind(-1), *ref_logps.unbind(-1)]
    return choose_loss(claim.name, **settings)(*given, *batch.lengths.unbind(-1))


def _kto_run(claim: Claim, folder: Path, shape: str, run: int, tokenizer) -> dict[str, float]:
    """As `_run`, on unpaired rows, with z_0 from the mismatched completions that TRL drew."""
    settings = claim.ours[run] | {"beta": BETAS[run]}
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs_as_text(3, seed=run)
        for side in ("chosen", "rejected")
    ]
    trainer = make_trainer(KTOTrainer, folder, shape, tokenizer, rows, **settings)
    loss, gradient = _theirs(trainer)
    policy, reference = (_load(folder, shape, role) for role in ("policy", "reference"))
    made = trainer.train_dataset
    own, other = (
        [
            (tuple(prompt), tuple(ids))
            for prompt, ids in zip(made["prompt_ids"], made[name], strict=True)
        ]
        for name in ("completion_ids", "KL_completion_ids")
    )
    with torch.no_grad():
        ref_logps = completion_logps(reference, own)
        apart = completion_logps(policy, other) - completion_logps(reference, other)
    labels, kl = torch.tensor(made["label"]), apart.mean().clamp(min=0)
    logps = completion_logps(policy, own)
    value = kto_loss(logps, ref_logps, labels, kl=kl, **settings).mean()
    found = {"ours": value.item(), "trl": loss, "caused": 0.0}
    apart = max(relative(value.item(), loss), _apart(_gradient(value, policy), gradient))
    return found | {"apart": apart}
