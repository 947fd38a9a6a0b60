"""What to do next: a first command or setting for each rule of the doctor, by the rule's name."""

_DATA = "read ten rows as they are rendered (`dpo check --data DATA --model MODEL`)"
_BETA = "apply beta once: where the loss is called, and again only in the logged rewards"
_FRESH = "start a new folder from the last good checkpoint; go on with nothing that came after"
_HELD_OUT = "pass --eval-data and --eval-every, and keep the weights of the least held-out loss"

NEXT = {
    "not finite": "repeat the step in float32 on its batch alone: an answer without tokens divides "
    "by 0, and float16 overflows at 65504 (take bfloat16)",
    "steps are broken": _FRESH,
    "learning rate is zero": "print the schedule: more warm-up steps than steps leave it at its "
    "foot",
    "nothing moves": "give the optimiser the policy's own parameters, and count the answer tokens "
    "of one batch",
    "reference is the policy": "score the reference from a frozen copy, or with the adapter "
    "switched off, or once before training",
    "loss is summed": "divide each micro-batch's loss by their number; then the learning rate "
    "that suits the sum is too low",
    "reference scores belong to other pairs": "score the reference again, keyed by row and not "
    "by place; rewards that are still not 0 say that it is another model",
    "policy is scored with noise": "set every dropout to 0; if rewards still start below 0, "
    "compare the names of policy and reference",
    "reference is another model": "start policy and reference from one checkpoint; with LoRA, "
    "merge the adapter of SFT before DPO",
    "first loss is wrong": "work the loss of one pair out by hand: at margin 0 it is ln 2 "
    "whatever beta is",
    "chosen and rejected are swapped": "look at the call of the loss, then score ten pairs by "
    "hand; if their margins are positive, only the metrics are swapped",
    "loss falls while accuracy falls": "look at the call of the loss, then score ten pairs by hand",
    "training goes uphill": "look for a minus sign at the loss: it is -log sigmoid, and minimised",
    "language is lost": "divide the learning rate by ten, add warm-up, clip gradients at 1",
    "one side is shorter": "compare the last tokens of both columns; raise max_length or drop what "
    "does not fit, never cut one side",
    "loss follows a larger margin": _BETA,
    "loss follows a smaller margin": _BETA,
    "reference moves": "freeze the reference and detach its scores; check that loss and log have "
    "one beta",
    "logps are averages": "sum over answer tokens for (7); if you meant the mean, choose beta anew",
    "ratio is not one": "draw and score with the same temperature, mask and mode (no dropout)",
    "kl is negative": "score samples as they were drawn: temperature 1, no top-k, the same model",
    "labels follow nothing": _DATA + "; label fifty again, blind, and count agreements",
    "held out loss rises": "take the weights of the step named, or run again with fewer epochs",
    "pairs are known by heart": _HELD_OUT,
    "too good too soon": _DATA + "; compare lengths, last tokens and duplicates of the columns",
    "gradients explode": "look at the batch of that step; clip gradients at 1",
    "nothing is learned": "raise the learning rate three times over, twice, before touching beta",
    "rounding at the start": "nothing, if 16 bits are meant; else score once in float32, and the "
    "rewards must be 0",
    "accuracy may be memory": _HELD_OUT,
    "both fall": "sample (`dpo sample`) and compare true reward or a judge; if samples suffer, "
    "fewer steps or pairs of the policy's own",
}
