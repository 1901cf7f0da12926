"""Runs what has no result yet, several runs at a time, and keeps each result at once."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tqdm

from amstf.data import Samples
from amstf.errors import AmstfError, ConfigError
from launch.experiments import data as data_sets
from launch.experiments import one_run
from launch.experiments.plan import Experiment, Variant, of_member
from launch.experiments.results import Results
from launch.run_directory import FIRST_LABEL, FULL_START, MUTUAL, RunConfig

_PLACES = ("dataset", "warm_start")  # Attributes that hold paths, which do not change a result.
_OF_MUTUAL = ("members", "agreement", "mutual_weight", "mutual_warm_up")
_ADDED = {
    "interaction": (),
    "activation": "",
    "separate_towers": False,
    "store_servers": (),
    "unit_images": False,
    "tower_activation": "",
    "dynamic_memory": 0,
    "full_checkpoint_every": 1,
    "admission": (),
    "eviction": (),
}
_OF_THE_WHOLE = (*_OF_MUTUAL, "epochs", "patience", "batch_size")


@dataclasses.dataclass(frozen=True)
class Plan:
    """An experiment on a data set, with its seeds and places.

    Attributes:
        name: Of the experiment.
        experiment: What to compare.
        data: Name of the data set.
        seeds: Of each variant.
        runs: Directory for data and runs.
        shared: Directory of data that the project may not ship, or None.
    """

    name: str
    experiment: Experiment
    data: str
    seeds: range
    runs: pathlib.Path
    shared: pathlib.Path | None

    def run_path(self, variant: str, seed: int, digest: str) -> pathlib.Path:
        """Returns where a run lies: another place for other settings."""
        words = "".join(c if c.isalnum() or c in ".=-" else "_" for c in variant)
        return self.runs / f"{self.name}-{self.data}" / f"{words}-{seed}-{digest}"


@dataclasses.dataclass(frozen=True)
class _Task:
    variant: str
    seed: int
    part: str
    prepare: data_sets.Changes
    after: tuple[tuple[str, int], ...]
    digest: str
    command: str
    job: one_run.Job

    @property
    def key(self) -> tuple[str, int]:
        return self.variant, self.seed


def run_missing(plan: Plan, results: Results, parallel: int, others: Iterable[Results] = ()) -> int:
    """Trains and measures what has no result yet.

    Args:
        plan: What is wanted.
        results: What is done, and where to keep the rest.
        parallel: Runs at a time.
        others: Of experiments on the same data, whose results count for the same runs here.

    Returns:
        The number of runs that were done.

    Raises:
        AmstfError: If a run fails; what others brought is kept.
        KeyboardInterrupt: The same command goes on.
    """
    tasks = {task.key: task for task in _tasks(plan)}
    missing = {
        key: task for key, task in tasks.items() if not results.has(*key, digest=task.digest)
    }
    for other in others:
        # A run that others start from is needed with its checkpoint, and a mutual one has members.
        wanted = {
            task.digest: key
            for key, task in missing.items()
            if not (task.job.is_kept or task.job.config.members)
        }
        if results.take_from(other, wanted):
            taken = {key for key in wanted.values() if results.has(*key, tasks[key].digest)}
            missing = {key: task for key, task in missing.items() if key not in taken}
    # What a missing run starts from is needed as a checkpoint, not only as a result.
    for task in list(missing.values()):
        for start in task.after:
            if not (tasks[start].job.run / "best").exists():
                missing[start] = tasks[start]
    if not missing:
        return 0
    for task in missing.values():
        data_sets.prepare(plan.data, plan.runs, plan.shared, task.seed, task.part, task.prepare)
    threads = max(1, len(os.sched_getaffinity(0)) // parallel)
    with (
        tqdm.tqdm(total=len(missing), desc=f"{plan.name}, {plan.data}", unit=" runs") as bar,
        concurrent.futures.ProcessPoolExecutor(
            parallel,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=one_run.prepare_process,
            initargs=(threads,),
        ) as pool,
    ):
        try:
            for task, measures in _done(pool, missing):
                facts = {"seed": task.seed, "digest": task.digest, "command": task.command}
                for member, own in measures.pop("members", {}).items():
                    name = of_member(task.variant, member)
                    results.keep({"variant": name, **facts, "measures": own})
                results.keep({"variant": task.variant, **facts, "measures": measures})
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return len(missing)


def facts_of(plan: Plan) -> dict[str, Any]:
    """Returns what the data set says of itself that tables show: the best reachable metrics."""
    if data_sets.DATA[plan.data].is_per_seed:
        return {}
    baseline = plan.experiment.variants[plan.experiment.baseline]
    directory = data_sets.prepare(
        plan.data, plan.runs, plan.shared, plan.seeds.start, baseline.part, baseline.prepare
    )
    best = Samples.open(directory).manifest.info.get("best_reachable")
    return {"best_reachable": best} if best else {}


def _done(
    pool: concurrent.futures.Executor, tasks: dict[tuple[str, int], _Task]
) -> Iterator[tuple[_Task, dict[str, Any]]]:
    """Yields tasks with their measures as they are done, none before the one it starts from."""
    waiting, under_way, done = dict(tasks), {}, set()
    while waiting or under_way:
        for key, task in list(waiting.items()):
            if all(start in done or start not in tasks for start in task.after):
                under_way[pool.submit(one_run.execute, waiting.pop(key).job)] = task
        first, _ = concurrent.futures.wait(
            under_way, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for future in first:
            task = under_way.pop(future)
            try:
                measures = future.result()
            except AmstfError as error:
                raise AmstfError(f"{task.variant}, seed {task.seed}: {error}") from error
            except concurrent.futures.process.BrokenProcessPool as error:
                raise AmstfError(
                    f"{task.variant}, seed {task.seed}: its process was killed, perhaps for "
                    "memory; the same command goes on, and needs less with --parallel=1"
                ) from error
            done.add(task.key)
            yield task, measures


def _tasks(plan: Plan) -> Iterator[_Task]:
    data = data_sets.DATA[plan.data]
    variants = plan.experiment.variants
    followed = {v for variant in variants.values() for v in (variant.after, *variant.members)}
    done: dict[tuple[str, int], _Task] = {}
    for name, variant in variants.items():
        if variant.part and not data.has_halves:
            raise ConfigError(f"--data={plan.data} has no halves in time, which {plan.name} needs")
        for seed in plan.seeds:
            settings = data.settings_of(variant.family)
            starts = [] if variant.is_scratch else [variant.after, *variant.members]
            after = [done[start, seed] for start in starts if start]
            of_data = (seed, variant.part, variant.prepare)
            dataset = str(data.directory(plan.runs, plan.data, *of_data))
            if variant.members:
                members = {name: done[name, seed].job for name in variant.members}
                config = _together(members, variant, settings, dataset, seed)
            else:
                config = RunConfig(
                    **{"labels": FIRST_LABEL, **settings, **variant.changes},
                    dataset=dataset,
                    warm_start=str(after[0].job.run) if after else "",
                    seed=seed,
                )
            facts = [
                _facts_of(config),
                data.flags(None, *of_data),
                data.segment_steps,
                data.new_item_impressions,
                plan.experiment.measures_test,
                *(start.digest for start in after),
            ]
            # Of all that a result depends on.
            digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
            job = one_run.Job(
                config=config,
                run=plan.run_path(name, seed, digest),
                segment_steps=data.segment_steps,
                new_item_impressions=data.new_item_impressions,
                measures_test=plan.experiment.measures_test,
                is_kept=name in followed,
            )
            task = _Task(
                variant=name,
                seed=seed,
                part=variant.part,
                prepare=variant.prepare,
                after=tuple(start.key for start in after),
                digest=digest,
                command=_command(job),
                job=job,
            )
            done[task.key] = task
            yield task


def _together(
    members: Mapping[str, one_run.Job],
    variant: Variant,
    settings: Mapping[str, Any],
    dataset: str,
    seed: int,
) -> RunConfig:
    """Returns the configuration that trains the models of several runs together."""
    of_each = {k: v for k, v in variant.changes.items() if k not in _OF_THE_WHOLE}
    whole = {k: v for k, v in {**settings, **variant.changes}.items() if k in _OF_THE_WHOLE}
    configs = {}
    for name, job in members.items():
        start = {} if variant.is_scratch else {"warm_start": str(job.run)}
        mode = {"warm_start_mode": FULL_START} if start else {}
        configs[name] = dataclasses.replace(job.config, **start, **mode, **of_each)
    return RunConfig(dataset, MUTUAL, members=configs, labels=FIRST_LABEL, seed=seed, **whole)


def _facts_of(config: RunConfig) -> dict[str, Any]:
    """Returns all of a configuration that a result depends on."""
    facts = {k: v for k, v in dataclasses.asdict(config).items() if k not in _PLACES}
    if config.members:
        facts["members"] = {name: _facts_of(member) for name, member in config.members.items()}
    else:
        # As before there was such training, so that results from then still count.
        facts = {k: v for k, v in facts.items() if k not in _OF_MUTUAL}
    # Likewise.
    return {k: v for k, v in facts.items() if k not in _ADDED or v != _ADDED[k]}


def _command(job: one_run.Job) -> str:
    """Returns the command line that trains the same by hand."""
    if job.config.members:
        return _mutual_command(job)
    words = ["python -m launch.train", f"--dataset={pathlib.Path(job.config.dataset).name}"]
    fields = {field.name: field for field in dataclasses.fields(RunConfig)}
    for name, value in dataclasses.asdict(job.config).items():
        is_default = value == fields[name].default and name != "seed"
        if name in ("dataset", "ams", "image_width", "members") or is_default:
            continue
        if name == "warm_start":
            value = pathlib.Path(value).name
        words.append(f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    if job.segment_steps:
        words.append(f"--segment_steps={job.segment_steps}")
    return " ".join([*words, f"--out={job.run.name}"])


def _mutual_command(job: one_run.Job) -> str:
    config = job.config
    starts = [pathlib.Path(m.warm_start).name or name for name, m in config.members.items()]
    words = [f"python -m launch.mutual --members={','.join(starts)}"]
    if not any(member.warm_start for member in config.members.values()):
        words.append("--scratch")
    first = next(iter(config.members.values()))
    words += [f"--{name}={getattr(config, name)}" for name in (*_OF_THE_WHOLE[1:], "seed")]
    words += [f"--learning_rate={first.learning_rate}"]
    if job.segment_steps:
        words.append(f"--segment_steps={job.segment_steps}")
    return " ".join([*words, f"--out={job.run.name}"])
