"""The one training loop of all stages: steps, log, checkpoints, resume.

A stage (`SFT`, `Reward`, `DPO`, `PPO`) knows its loss, `Learner` the optimiser's step. The loop
keeps one promise: a run that was killed at any moment and started again with `resume` ends with
the same bytes, weights, optimiser and log, as a run that was left alone (on one CPU machine,
with one torch version and one number of threads).
"""

from pathlib import Path

from dpo_lib.language_model.settings import TrainingError
from dpo_lib.language_model.training import sharding
from dpo_lib.language_model.training.learner import Learner
from dpo_lib.language_model.training.processes import Signals, processes
from dpo_lib.language_model.training.progress import Progress
from dpo_lib.language_model.training.run_folder import RunFolder
from dpo_lib.language_model.training.stage import Stage, about, first_line


def train(stage: Stage) -> Path:
    """Train to the last step, from the first or from where a killed run stopped.

    Returns:
        the run's folder, settings.out; the trained model is its `model`.

    Raises:
        ValueError: a TrainingError, RunError or CheckpointError, in one line; checkpoints intact.
        SystemExit: after SIGTERM or SIGINT, with a checkpoint of the step that was under way.
    """
    settings, group = stage.settings, processes()
    if settings.batch_size > stage.items:
        raise TrainingError(
            f"batch_size {settings.batch_size} is more than the {stage.items} items"
        )
    if group.sharded and not stage.may_shard:
        raise TrainingError(f"{type(stage).__name__} cannot be sharded: leave --use_fsdp out")
    hashes = {f"{name} (hash)": value for name, value in stage.fingerprint.items()}
    facts = {"stage": type(stage).__name__, **hashes}
    group.require_same(facts)
    found = about(stage)
    with RunFolder(settings.out, settings, facts, settings.resume, group.main, found) as run:
        group.wait()
        learner = Learner(stage)
        learner.start(run.load())
        done = (learner.step, learner.num_tokens)
        notes = [first_line(stage, found), *run.notes]
        with Progress(settings, *done, notes, show=group.main) as bar:
            if learner.step == 0:
                _evaluate(learner, run, bar)
                run.require_space(learner.checkpoint_bytes() * 3)  # two are kept, one is written
                learner.save(run)
            _loop(learner, run, bar)
        if group.sharded:
            for module in stage.modules.values():
                sharding.gather(module)
        run.finish(stage.save)
        group.wait()
    return run.path


def _loop(learner: Learner, run: RunFolder, bar: Progress) -> None:
    settings = learner.stage.settings
    with Signals() as signals:
        while learner.step < settings.steps:
            record = learner.update()
            run.log(record, bar.advance(record))
            _evaluate(learner, run, bar)
            stopped = learner.group.any(signals.received)
            if stopped or learner.step % settings.save_every == 0 or learner.step == settings.steps:
                learner.save(run)
            if stopped:
                bar.note(f"stopped at step {learner.step}, saved; go on with --resume")
                raise SystemExit(128 + stopped)


def _evaluate(learner: Learner, run: RunFolder, bar: Progress) -> None:
    """A line of its own in the log, before the first step, every so often, and after the last."""
    settings, step = learner.stage.settings, learner.step
    if getattr(settings, "eval_data", None) is None:
        return
    every = settings.eval_every or max(1, settings.steps // 10)
    if step % every == 0 or step == settings.steps:
        found = learner.stage.evaluate()
        run.log({"step": step, **found})
        bar.measured(step, found)
