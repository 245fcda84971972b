"""The training loop. There is one.

It reads top to bottom: open, resume, compile, then evaluate / save / step / log until done, stopped early or told to
stop. A run killed at any moment goes on from its last complete checkpoint and ends with the same bits. A set that it
goes on with later (`tt_jax.training.continuous`) takes the same way, and is validated before its first step.
"""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from input_pipeline.batches import Batches, ResumeError
from input_pipeline.blocks.prepared_set import Part, PreparedSet
from tt_jax.config import Config
from tt_jax.evaluation.predict import predict_rows
from tt_jax.io.abandoned import quiet_about_abandoned
from tt_jax.io.progress import Progress
from tt_jax.metrics import METRICS, streaming
from tt_jax.parallel.processes import failing_together, gather, is_first
from tt_jax.runs.checkpoints import CheckpointError, Checkpoints
from tt_jax.runs.finite import DivergedError, diverged, make_finite_check
from tt_jax.runs.interrupt import Interrupted, StopSignal, call_interruptibly
from tt_jax.runs.lock import locked
from tt_jax.runs.metrics_log import TRAIN_SECONDS, MetricWriter, losses_line, metrics_line
from tt_jax.runs.profiler import StepProfile
from tt_jax.runs.record import describe, open_workdir
from tt_jax.runs.throughput import Clock
from tt_jax.training import progressive
from tt_jax.training.admission import row_figures, rows_line
from tt_jax.training.setup import Setup
from tt_jax.training.step import Step, TrainState

STEPS_IN_FLIGHT = 2  # dispatched and not finished: hides the dispatch, bounds the batches held on the device


@dataclass
class RunFacts:
    """What a run knows besides its state; saved with every checkpoint.

    Attributes:
      best_step, best_score: by the `early_stop` metric, higher is better; None before the first evaluation.
      bad_evaluations: evaluations since the best one.
      last_evaluation: step of the last one.
      train_seconds: spent in the training steps so far, of all calls; without compiling, evaluations and saves.
      report: of the best step, or of the last evaluation where there is no `early_stop` metric; of a run that went on
        with more sets, of the last one, by the weights before it was learned.
    """

    best_step: int | None = None
    best_score: float | None = None
    bad_evaluations: int = 0
    last_evaluation: int = 0
    train_seconds: float = 0.0
    report: dict[str, Any] | None = None


@dataclass(frozen=True)
class Result:
    """How a call of `train` ended.

    Attributes:
      step: steps done, of `total_steps`.
      stopped_by: name of the signal that stopped it; "" = it finished.
      facts: see `RunFacts`.
      examples_per_s: of the training steps of this call, without evaluations and saves; None if it did none.
    """

    step: int
    total_steps: int
    stopped_by: str
    facts: RunFacts
    examples_per_s: float | None


def train(config: Config, workdir: str | Path, name: str = "train") -> Result:
    """Trains the run of a working directory, or goes on with it.

    Args:
      config: of the run. `config.data.path` is a prepared set.
      workdir: directory of the run; created if need be.
      name: what progress lines begin with.

    Raises:
      ConfigError: the configuration does not fit the data, or the directory holds another run.
      PreparedError: the data cannot be read, or are damaged.
      WorkdirInUseError: another run writes the directory.
      ResumeError: the input position of the run cannot be resumed exactly.
      DivergedError: the loss or a weight became NaN or infinite.
    """
    workdir, prepared = Path(workdir), PreparedSet.open(config.data.path)
    setup = Setup(config, prepared)
    with locked(workdir):
        open_workdir(workdir, describe(config, prepared.schema, prepared.fingerprint))
        return run(setup, workdir, name)


def run(setup: Setup, workdir: Path, name: str) -> Result:
    """Trains on the set of a setup, from the last checkpoint on, in a directory that is locked; see `train`."""
    config = setup.config
    with (
        quiet_about_abandoned(),
        StopSignal() as stop,
        closing(setup.batches()) as batches,
        closing(Checkpoints(workdir, config.train.keep_last)) as checkpoints,
    ):
        restored = checkpoints.restore_last(setup.abstract_state)
        facts = RunFacts()
        if restored:
            facts = RunFacts(**{key: restored.run[key] for key in RunFacts.__dataclass_fields__})
        state = restored.state if restored else setup.fresh_state()
        step = int(state.step)
        if step < setup.start:
            raise CheckpointError(f"{workdir}: step {step} is left, of {setup.start}; the same command goes on from it")
        if restored and (step > setup.start or setup.stage is None):
            batches.set_state(_position(restored.run["input"]))
        with (
            closing(MetricWriter(workdir, step)) as writer,
            Progress(name, "step", setup.total_steps, step, is_first()) as progress,
            closing(StepProfile(config.profile, workdir / "profile")) as profile,
            failing_together(),
        ):
            if restored:
                progress.say(f"resumed at step {step}")
            loop = _Loop(setup, workdir, batches, checkpoints, writer, progress, profile, stop, facts)
            try:
                if setup.stage is not None and step == setup.start:
                    state = loop.begin(state)
                # One of many processes must not stop alone: they agree before the first step.
                stops = stop if jax.process_count() == 1 else lambda: False
                step_function = call_interruptibly(setup.compile_step, stops)
                if stop.agreed():
                    raise Interrupted
                state = loop.run(step_function, state)
            except Interrupted:
                state = loop.state or state
                loop.check_finite(state)
                loop.save(state)
                progress.say(f"stopped by {stop.name} at step {int(state.step)}; the same command goes on from there")
        return Result(int(state.step), setup.total_steps, stop.name, facts, loop.clock.examples_per_s())


@dataclass
class _Loop:
    """The moving parts of `train`, and the state that an interruption has to save."""

    setup: Setup
    workdir: Path
    batches: Batches
    checkpoints: Checkpoints
    writer: MetricWriter
    progress: Progress
    profile: StepProfile
    stop: StopSignal
    facts: RunFacts

    def __post_init__(self) -> None:
        self.config = self.setup.config
        self.predict = self.setup.make_predict()
        self.check_finite = make_finite_check(self.setup.mesh)
        self.clock = Clock(self.config.data.batch_size)
        self.state: TrainState | None = None

    def begin(self, state: TrainState) -> TrainState:
        """Validates the set of a stage; the state before its first step."""
        found = progressive.validate(self.setup, self.predict, state, self.stop.agreed)
        progressive.write(self.workdir, self.writer, found)
        self.facts.report = {key: found[key] for key in ("overall", "scenarios", "rows")}
        self.progress.say(f"step {found['step']} progressive validation " + metrics_line(found["overall"]))
        return self.setup.first_state(state)

    def run(self, step_function: Step, state: TrainState) -> TrainState:
        c, total = self.config.train, self.setup.total_steps
        step = int(state.step)
        in_flight: deque[jax.Array] = deque()
        self.state = state
        while True:
            # ---- evaluate (a stage has been validated instead), save: at their steps and at the end -----------------
            evaluates = self.setup.stage is None and (step == total or _due(step, c.eval_every))
            if evaluates or step == total or _due(step, c.save_every):
                self.check_finite(state)
                if evaluates and (self.facts.report is None or self.facts.last_evaluation != step):
                    self.evaluate(state, step)
                self.save(state)
            if step == total or (c.patience and self.facts.bad_evaluations >= c.patience):
                return state
            # ---- one step; at most STEPS_IN_FLIGHT run behind the host ----------------------------------------------
            if self.stops(step):
                raise Interrupted
            self.profile.before(step)
            start = time.perf_counter()
            batch = next(self.batches)
            waited = time.perf_counter() - start
            state, done = step_function(state, batch)
            self.state = state
            step += 1
            in_flight.append(done)
            while len(in_flight) > (0 if _due(step, c.log_every) else STEPS_IN_FLIGHT):
                in_flight.popleft().block_until_ready()
            took = time.perf_counter() - start
            self.clock.add(took, waited)
            self.facts.train_seconds += took
            self.progress.advance()
            # ---- log ------------------------------------------------------------------------------------------------
            if _due(step, c.log_every):
                state = self.state = self.log(state, step)

    def stops(self, step: int) -> bool:
        """Whether to stop before the next step. Many processes agree where they wait for the devices anyway."""
        if jax.process_count() == 1:
            return self.stop()
        return _due(step, self.config.train.log_every) and self.stop.agreed()

    def log(self, state: TrainState, step: int) -> TrainState:
        """Writes the figures since the last log; the state with its sums at zero."""
        tasks = streaming.compute(state.metrics, self.setup.model.schema.task_names)
        figures = {f"train/{task}/{name}": value for task, found in tasks.items() for name, value in found.items()}
        bad = [name for name, v in figures.items() if v is not None and not math.isfinite(v)]
        if bad:
            raise diverged(step, bad, len(figures), "figures")
        speed, rows = self.clock.figures(), row_figures(state.admissions)
        figures |= {f"rows/{feature}/{k}": v for feature, found in rows.items() for k, v in found.items()}
        self.writer.write_scalars(step, {**figures, **{f"speed/{k}": v for k, v in speed.items()}})
        self.progress.show(losses_line(tasks, speed) + rows_line(rows))
        return state.replace(metrics=self.setup.no_sums())

    def evaluate(self, state: TrainState, step: int) -> None:
        """Evaluates and takes down whether this step is the best so far."""
        data = self.config.data
        try:
            part, weights = Part(self.setup.prepared, (data.eval_split,)), (state.params, state.tables)
            rows = predict_rows(self.predict, weights, part, data.scenarios, data.eval_batch_size, self.stop.agreed)
        except DivergedError as e:
            raise DivergedError(f"step {step}: {e}") from None
        report, facts, name = rows.report(), self.facts, self.config.train.early_stop
        facts.last_evaluation = step
        overall = report["overall"]
        figures = {f"eval/{task}/{metric}": v for task, found in overall.items() for metric, v in found.items()}
        for scenario, tasks in report["scenarios"].items():
            figures |= {f"eval/{scenario}/{task}/logloss": found["logloss"] for task, found in tasks.items()}
        self.writer.write_scalars(step, {**figures, TRAIN_SECONDS: facts.train_seconds})
        self.progress.say(f"step {step} eval " + metrics_line(overall))
        if not name:
            facts.report = report
            return
        task, _, metric = name.partition(".")
        value = overall[task][metric]
        if value is None:
            raise DivergedError(f"step {step}: the early-stop metric {name} is undefined on {data.eval_split!r}")
        score = -value if METRICS[metric].better == "lower" else value
        if facts.best_score is None or score > facts.best_score:
            facts.best_step, facts.best_score, facts.bad_evaluations, facts.report = step, score, 0, report
        else:
            facts.bad_evaluations += 1

    def save(self, state: TrainState) -> None:
        """Saves state, input position and facts, in the background."""
        run = {"input": gather(self.batches.get_state()), **asdict(self.facts)}
        self.checkpoints.save(state, run, self.facts.best_step)


def _position(positions: list[Any]) -> Any:
    """This process's input position, of those that a checkpoint holds by process."""
    if len(positions) != jax.process_count():
        raise ResumeError(
            f"the input position cannot be resumed exactly: {len(positions)} processes saved the checkpoint and"
            f" {jax.process_count()} resume it, and each reads its own share of the data; start {len(positions)}"
        )
    return positions[jax.process_index()]


def _due(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0
