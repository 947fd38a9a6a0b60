"""The one training loop of all stages: steps, log, checkpoints, resume.

A stage (`SFT`, `Reward`, `DPO`, `KTO`, `PPO`) knows its loss, `Learner` the optimiser's step. The
loop keeps one promise: a run that was killed at any moment and started again with `resume` ends
with the same bytes, weights, optimiser and log, as a run that was left alone (on one CPU machine,
with one torch version and one number of threads).
"""

import math
from dataclasses import asdict
from pathlib import Path

from dpo_lib.language_model.settings import TrainingError
from dpo_lib.language_model.training import checkpoint
from dpo_lib.language_model.training.learner import Learner
from dpo_lib.language_model.training.parallel import sharding
from dpo_lib.language_model.training.parallel.processes import Signals, processes
from dpo_lib.language_model.training.progress import Progress
from dpo_lib.language_model.training.run_folder import SAMPLES, RunFolder
from dpo_lib.language_model.training.stage import Stage, about, first_line
from dpo_lib.language_model.training.trackers import Trackers, trackers_of


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
    if group.sharded and settings.lora is not None:
        raise TrainingError("lora: adapters cannot be sharded: leave --use_fsdp or --lora out")
    tracked = trackers_of(settings.report_to) if group.main else []
    hashes = {f"{name} (hash)": value for name, value in stage.fingerprint.items()}
    facts = {"stage": type(stage).__name__, **hashes}
    group.require_same(facts)
    found = about(stage)
    keeps = [*([SAMPLES] if getattr(settings, "samples", 0) else []), *stage.keeps]
    with RunFolder(settings.out, settings, facts, settings.resume, group.main, found, keeps) as run:
        group.wait()
        learner = Learner(stage)
        saved = run.load()
        learner.start(saved)
        new, saved = saved is None, None  # its tensors would stay in memory
        done = (learner.step, learner.num_tokens)
        notes = [first_line(stage, found), *run.notes]
        with Progress(settings, *done, notes, show=group.main) as bar:
            trackers = Trackers(tracked, run.path, asdict(settings), bar.note)
            if new:
                _measure(learner, run, bar, trackers)
                # two are kept, one is written, and one may be the best
                run.require_space(
                    learner.checkpoint_bytes() * (4 if learner.measuring.metric else 3)
                )
                learner.save(run)
            _loop(learner, run, bar, trackers)
            trackers.finish()
            if group.sharded:
                for module in stage.modules.values():
                    sharding.gather(module)
            _take_the_best(learner, run, bar)
        run.finish(stage.save)
        group.wait()
    return run.path


def _loop(learner: Learner, run: RunFolder, bar: Progress, trackers: Trackers) -> None:
    settings = learner.stage.settings
    with Signals() as signals:
        while not learner.finished:
            record = learner.update()
            run.log(record, bar.advance(record), learner.stage.kept(record["step"]))
            trackers.log(record)
            best = _measure(learner, run, bar, trackers)
            stopped = learner.group.any(signals.received)
            due = learner.step % settings.save_every == 0 or learner.finished
            if stopped or due or best:  # what is the best stays in its checkpoint
                learner.save(run)
            if stopped:
                bar.note(f"stopped at step {learner.step}, saved; go on with --resume")
                raise SystemExit(128 + stopped)
    if learner.measuring.exhausted:
        bar.note(
            f"ended at step {learner.step}: no better measurement in {learner.measuring.since}"
        )


def _measure(learner: Learner, run: RunFolder, bar: Progress, trackers: Trackers) -> bool:
    """A line of its own in the log, where one is due; whether it is the best so far."""
    step = learner.step
    if not learner.measuring.due(step):
        return False
    found = learner.stage.evaluate()
    figures = _finite(found.figures)
    for name in found.figures.keys() - figures:
        bar.note(f"held out after step {step}: {name} is not finite")
    record = {"step": step, **figures}
    texts = [{"step": step, **_finite(text)} for text in found.samples]
    run.log(record, rows={SAMPLES: texts} if texts else None)
    trackers.log(record)
    bar.measured(step, figures)
    return learner.measuring.take(step, found.figures)


def _finite(values: dict) -> dict:
    """Without the numbers for which JSON has none."""
    return {k: v for k, v in values.items() if not isinstance(v, float) or math.isfinite(v)}


def _take_the_best(learner: Learner, run: RunFolder, bar: Progress) -> None:
    """Give the stage the weights of its best measurement, which may be earlier ones."""
    step = learner.measuring.best_step
    if step is not None and step != learner.step:
        learner.take_weights(checkpoint.load_at(run.path, step))
    if step is not None:
        bar.note(f"the saved model is the best of those measured: {learner.measuring.said()}")
