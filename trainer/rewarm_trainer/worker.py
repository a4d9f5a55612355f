"""One training process: from a prepared work folder to its report. `python -m rewarm_trainer.worker --workdir DIR`.

Runs alone, under `rewarm run --processes N`, or under torchrun; reads the usual RANK, WORLD_SIZE, MASTER_* variables.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from rewarm_api.errors import MissingInputError, Preempted, RewarmError
from rewarm_api.pins import Pins
from rewarm_trainer.benchmarks import Benchmarks
from rewarm_trainer.checkpoint import Checkpoints, manifest_root
from rewarm_trainer.controllers.conduct import Conductor, look_every
from rewarm_trainer.finish import facts_of, publish
from rewarm_trainer.judge import RunJudge
from rewarm_trainer.keeper import Keeper
from rewarm_trainer.listener import Listener
from rewarm_trainer.looks import Looks, from_rank_0
from rewarm_trainer.loop import Loop
from rewarm_trainer.phases import requested_ratio
from rewarm_trainer.prepared_run import Run
from rewarm_trainer.progress import Progress
from rewarm_trainer.registration import register
from rewarm_trainer.report import CheckpointFacts, Facts, build_report
from rewarm_trainer.runlog import PASSED_OVER, read_records
from rewarm_trainer.serving import ask_serving
from rewarm_trainer.session import Session
from rewarm_trainer.signals import ParentWatch, StopRequest, die_with_parent
from rewarm_trainer.surroundings import AnnouncedJudge, AnnouncedKeeper, Surroundings
from rewarm_trainer.weights.finishing import Finisher
from rewarm_trainer.workdir import RunLog, WorkFolder, read_snapshot


def open_run(work: WorkFolder, cache: Path) -> Run:
    """A prepared run; its snapshot and pins are read, never made."""
    snapshot = read_snapshot(work)
    pins = Pins.model_validate_json(work.pins.read_text())
    return Run(work, snapshot, pins, cache)


class Worker:
    """Rank r of a run. Only rank 0 has a listener; the others train in silence."""

    def __init__(
        self,
        run: Run,
        stop: StopRequest,
        progress: Progress,
        metrics_port: int | None,
        around: Surroundings | None = None,
    ) -> None:
        self._run, self._stop, self._progress = run, stop, progress
        self._metrics_port = metrics_port
        self._around = around or Surroundings()
        self._attempt = 0
        self._record: dict[str, Any] | None = None
        self.session = Session.open(run)
        self._is_main = self.session.rank == 0
        self._listener: Listener | None = None
        kept = run.snapshot.checkpoints
        self._checkpoints = Checkpoints.of(
            run.work, kept.uri, manifest_root(run.work), single_writer=kept.single_writer
        )
        self._keeper = self.session.keeper(self._checkpoints, self._listen, self._before_commit, self._around.store)
        self._state = run.first_state()
        self._parent = ParentWatch()

    def _listen(self, record: dict[str, Any]) -> None:
        if self._listener:
            self._listener(record)
            if self._listener.exporter:
                self._listener.exporter.seconds(dict(self._state.seconds))
        self._around.hears(record)

    def _before_commit(self) -> None:
        if self._listener:
            self._listener.log.sync()

    def run(self) -> dict[str, Any] | None:
        """Train to the end and write the report; rank 0 returns it. Every way to fail leaves a report too."""
        if self._is_main:
            self._open_listener()
        try:
            self._train()
        except BaseException as error:
            self._leave(error)
            raise
        return self._succeed()

    def _open_listener(self) -> None:
        run = self._run
        self._around.opened(run, self._checkpoints.check_fence)
        exporter = self._around.exporter(self._metrics_port)
        if exporter:
            exporter.plan(
                tokens=run.plan.tokens,
                steps=run.plan.steps,
                replay_ratio=requested_ratio(run.plan, run.snapshot.replay.ratio),
            )
        tracker = self._around.tracker(run)
        log = RunLog(run.work.log)
        self._listener = Listener(log, self._progress, tracker, exporter, run.snapshot.training.sequence_length)

    def _train(self) -> None:
        session, run = self.session, self._run
        if run.snapshot.replay.cited is not None:
            from rewarm_trainer.study.citation import check_size

            check_size(run.snapshot, session.parameters)
        looks, benchmarks = session.looks(self._scored), session.benchmarks(self._scored)
        epoch = 0
        if self._is_main:
            epoch = self._checkpoints.claim({**self._around.writer(), "uid": run.snapshot.uid})
        self._checkpoints.follow(from_rank_0(epoch, session.world))
        session.barrier()
        self._state = self._keeper.restore()
        fresh = self._state.step == 0
        order = run.new_order(self._state.phase_log())
        self._state.check(order, run.plan, str(run.work.checkpoints))
        self._note_environment(fresh)
        self._attempt_started()
        self._around.resumed(self._state)
        if fresh:
            self._around.now("Baseline")
            baseline = looks.baseline(run.cache, run.pins.tokenizer)
            if benchmarks:
                asked = benchmarks.baseline(run.cache, run.pins.tokenizer, looks.base_digest)
                baseline |= {**asked, "seconds": round(baseline["seconds"] + asked["seconds"], 3)}
            self._state.evaluations = [baseline] if looks.sets or benchmarks else []
            self._state.seconds["baseline"] = baseline["seconds"]
            self._listen({"event": "evaluation", **baseline})
            self._state.teacher = session.teacher_losses(looks)
            for decision in Conductor.of(run.snapshot, run.pins).begin(self._state):
                self._listen({"event": "decision", **decision})
        else:
            looks.resume()
            if benchmarks:
                benchmarks.resume()
        if run.snapshot.finish and self._is_main:
            self._finisher(looks, benchmarks).check()
        self._progress.start(run.snapshot, run.plan, self._state.step)
        if fresh:
            ask_serving(session, looks, benchmarks, self._keeper.warn)
        looks.take_serving()
        if benchmarks:
            benchmarks.take_serving()
        loop = self._loop(looks, benchmarks, self._keeper)
        self._around.now("Compiling" if session.compiled else "Training")
        self._stop.in_training = True
        try:
            loop.run()
        finally:
            self._state = loop.state
        self._keeper.wait()
        if run.snapshot.finish:
            self._around.now("Finishing")
            self._record = self._finisher(looks, benchmarks).run()

    def _finisher(self, looks: Looks, benchmarks: Benchmarks | None) -> Finisher:
        return Finisher(
            self.session,
            looks,
            benchmarks,
            self._checkpoints,
            self._state.step,
            asked_to_stop=lambda: self._stop.asked,
            alive=self._around.alive,
            listen=self._listen,
        )

    def _loop(self, looks: Any, benchmarks: Any, keeper: Keeper) -> Loop:
        session, run = self.session, self._run
        loader = session.loader()
        replays = [name for name in run.pins.sources if name in run.new_order(self._state.phase_log()).replay_names]
        judge = RunJudge(
            looks,
            session.model,
            asked=run.snapshot.gates,
            plan=run.plan,
            can_raise=bool(replays),
            ceiling=replay_ceiling(run, replays),
            listen=self._listen,
            conductor=Conductor.of(run.snapshot, run.pins),
            # With `finish` the last checkpoint is not what is exported: the finished model is asked instead.
            benchmarks=None if run.snapshot.finish else benchmarks,
        )
        return Loop(
            plan=run.plan,
            training=run.snapshot.training,
            state=self._state,
            new_order=run.new_order,
            loader=loader,
            updater=session.updater(len(loader.numbers)),
            judge=AnnouncedJudge(judge, self._around),
            keeper=AnnouncedKeeper(keeper, self._around),
            listen=self._listen,
            stop_requested=self._stop_requested,
            commit_due=self._commit_due,
            beginning=run.beginning,
            after_update=session.after_update,
            look_every=look_every(run.snapshot, run.plan),
        )

    def _scored(self, name: str, done: int, total: int) -> None:
        self._around.alive()
        self._progress.baseline(name, done, total)

    def _stop_requested(self) -> bool:
        self._parent.check()
        self._around.stepped()
        return self._stop.asked

    def _commit_due(self) -> bool:
        minutes = self._run.snapshot.checkpoints.every_minutes
        return self._is_main and time.monotonic() - self._keeper.last_commit_time > 60.0 * minutes

    def _attempt_started(self) -> None:
        if not self._listener:
            return
        records = read_records(self._run.work.log)
        earlier = sum(record.get("event") == "attempt started" for record in records)
        number = self._attempt = self._around.attempt_number(earlier)
        pid = int(os.environ.get("REWARM_LAUNCHER_PID", os.getpid()))
        processes = self.session.world
        self._listen(
            {
                "event": "attempt started",
                "number": number,
                "processes": processes,
                "pid": pid,
                "step": self._state.step,
                "environment": self._state.environment,
                "model_seconds": round(self.session.model_seconds, 3),
            }
        )
        if self._listener.exporter:
            # Of the whole run: no rate would show a counter that begins at one.
            self._listener.exporter.passed_over(sum(record.get("event") == PASSED_OVER for record in records))
            self._listener.exporter.attempt(number=number, processes=processes)

    def _note_environment(self, fresh: bool) -> None:
        """A resume on other terms is allowed, but never unsaid: same rows always, same bits only on the same terms."""
        # Checkpoints from before there was a choice were replicated.
        now, before = self.session.environment(), {"parallelism": "Replicated", **self._state.environment}
        changed = {name: (before.get(name), value) for name, value in now.items() if before.get(name) != value}
        if not fresh and changed:
            words = ", ".join(f"{name} was {old}, is {new}" for name, (old, new) in changed.items())
            self._keeper.warn(f"resumed in another environment: {words}; rows are the same, losses may differ in bits")
        self._state.environment = now

    def _facts(self, outcome: str, message: str) -> Facts:
        last = self._keeper.last
        checkpoint = CheckpointFacts(last.uri, last.step, last.sha256) if last else None
        if self._record:
            checkpoint = CheckpointFacts(**self._record["checkpoint"])
        return facts_of(
            self._run.work,
            self._run.snapshot,
            self._run.pins,
            self._state,
            outcome=outcome,
            message=message,
            checkpoint=checkpoint,
            run_id=self._listener.tracker.run_id if self._listener else None,
            record=self._record,
            parameters=self.session.parameters,
        )

    def _succeed(self) -> dict[str, Any] | None:
        self._keeper.close()
        if not self._listener:
            self._around.meet(self.session)
            return None
        self._around.now("Finishing")
        snapshot, pins = self._run.snapshot, self._run.pins
        self._listen({"event": "attempt ended", "number": self._attempt, "cause": "Completed"})
        report = build_report(self._facts("Succeeded", ""))
        publish(self._run.work, snapshot, pins, report)
        report, problem = register(
            self._listener.tracker, self._run.work, snapshot, pins, report, aliases=self._around.owns_tracking
        )
        if problem:
            self._progress.event(f"tracking: {problem}; the same command, run again, delivers it")
        self._around.ended(report)
        self._around.meet(self.session)
        self._around.linger(lambda: self._stop.asked)
        self._close()
        return report

    def _leave(self, error: BaseException) -> None:
        """A report of how far it came; the tracking run says how it ended."""
        try:
            self._keeper.wait()
        # RuntimeError: of gloo, when a process that wrote its part of the checkpoint went away.
        except (RewarmError, RuntimeError) as late:
            self._listen({"event": "warning", "message": f"the last checkpoint was not committed: {late}"})
        self._keeper.close()
        if not self._listener:
            return
        cause = error.cause if isinstance(error, RewarmError) else "Unknown"
        if self._attempt:
            self._listen({"event": "attempt ended", "number": self._attempt, "cause": cause})
        try:
            report = build_report(self._facts(cause, str(error)))
            publish(self._run.work, self._run.snapshot, self._run.pins, report)
            self._around.ended(report)
            self._listener.tracker.finish("KILLED" if isinstance(error, Preempted) else "FAILED", deadline_seconds=5.0)
        except (OSError, RewarmError) as second:
            print(f"rewarm: no report could be written: {second}", file=sys.stderr)
        self._close()

    def _close(self) -> None:
        assert self._listener
        if self._listener.exporter:
            self._listener.exporter.close()
        self._listener.log.close()


def replay_ceiling(run: Run, replays: list[str]) -> float:
    """The highest replay ratio that the replay sources allow under `maxRepeats` until the plan's end."""
    rows = sum(run.pins.sources[name].rows for name in replays)
    return min(0.5, rows * run.snapshot.replay.max_repeats / max(1, run.plan.steps * run.plan.rows_per_step))


def train(work: WorkFolder, cache: Path, stop: StopRequest, progress: Progress, metrics_port: int | None) -> None:
    """Train a prepared run in this process; a summary goes to the display at the end."""
    report = Worker(open_run(work, cache), stop, progress, metrics_port).run()
    if report:
        progress.finish(report)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rewarm_trainer.worker", description="Train a prepared work folder.")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--metrics-port", type=int, default=None)
    options = parser.parse_args(arguments)
    from rewarm_trainer.run import cache_folder

    die_with_parent()
    work = WorkFolder(options.workdir)
    is_main = os.environ.get("RANK", "0") == "0"
    progress = Progress.create(sys.stderr) if is_main else Progress()
    stop = StopRequest()
    stop.install()
    try:
        if not work.pins.exists():
            raise MissingInputError(f"{work.root}: not a prepared work folder (no pins.json); prepare it by rewarm run")
        if is_main and "REWARM_LAUNCHER_PID" not in os.environ:
            work.lock()
        with progress:
            train(work, options.cache or cache_folder(), stop, progress, options.metrics_port)
    except RewarmError as error:
        if is_main:
            print(f"rewarm: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Other threads of other ranks' collectives must not keep a finished process alive.
    os._exit(code)
