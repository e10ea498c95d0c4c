"""The queue: what is trained and measured, at the size of a CPU or of a GPU.

A job's name is also its model's folder. ``cpu`` is the same list at a reduced size: fewer steps, queries and teacher
calls, so its figures are never put in one table with those of ``gpu``.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SINGLE = ("metatool", "esconv", "saycan_next")
FACTS = ("openbookqa", "strategyqa_facts")
SEEDS = (0, 1, 2)
LABELS_ONLY = {"label_weight": 1.0, "teacher_calls": 0, "calibration_queries": 0}
PAPER = {"log_odds_weight": 0.0, "kl_weight": 1.0}  # the squared error of the embedding and the reverse KL, equally
Options = dict[str, Any]
STUDENTS: dict[str, Options] = {
    "retriever": {},
    "retriever, quadratic": {"predictor": "quadratic"},
    "retriever, no labels": {"label_weight": 0.0},
    "retriever, reverse KL": PAPER,
    "off-policy, uniform": {"policy": "uniform"},
    "off-policy, bm25": {"policy": "bm25"},
    "regression": {"label_weight": 0.0, "log_odds_weight": 0.0},
    "logit-distil": {**PAPER, "label_weight": 0.0, "embedding_weight": 0.0},
    "labels-only": LABELS_ONLY,
}


@dataclass(frozen=True)
class Job:
    """One entry of the queue.

    Attributes:
        name: Of its result file, and of the model it makes.
        kind: ``teacher``, ``biencoder``, ``students`` or ``systems``.
        options: What it works on; stored in the result file.
    """

    name: str
    kind: str
    options: dict[str, Any]

    def result(self, args: argparse.Namespace) -> Path:
        """Returns its result file."""
        path: Path = args.out / f"{self.name}.json"
        return path

    def done(self, args: argparse.Namespace) -> bool:
        """Returns whether the result file is complete, for these very options."""
        path = self.result(args)
        if not path.is_file():
            return False
        record = json.loads(path.read_text())
        return record["finished"] and record["options"] == json.loads(json.dumps(self.options))


def jobs(size: str) -> list[Job]:
    """Returns the queue in the order of work."""
    return _cpu() if size == "cpu" else _gpu()


def _losses() -> list[Options]:
    """Question 3: which terms, which divergence, and what labels add."""
    squares = {"log_odds_weight": 3.0, "kl_weight": 0.0}
    terms = [{}, {"kl_weight": 0.0}, {"embedding_weight": 0.0}, squares]
    kinds = [{"divergence": kind} for kind in ("forward", "documents", "vocabulary")]
    kinds += [{"kl_weight": 5.0}, {**squares, "embedding_weight": 0.0}, {**squares, "label_weight": 0.5}]
    labels = [{"label_weight": weight} for weight in (0.05, 0.2, 0.5, 1.0)]
    return [*({**term, "seed": seed} for term in terms for seed in SEEDS), *kinds, *labels, LABELS_ONLY]


def _predictors(sizes: tuple[int, ...]) -> list[Options]:
    """Question 2: form and size; which state of a segment is read."""
    forms = [{"predictor": kind, "hidden_units": units} for kind in ("mlp", "quadratic") for units in sizes]
    return [*forms, {"pooling": "last"}]


def _policies(budgets: tuple[int, ...]) -> list[Options]:
    """Question 4: R@1 against teacher calls for each rule of sampling; the teacher's own only at the largest.

    Then, at the middle budget, how far the student's own ranking should be followed; and what came out of that, more
    queries with two pairs each, for all rules: half the calls on-policy against the rest's.
    """
    rules = ("on", "uniform", "bm25")
    triples = itertools.product(budgets, SEEDS, rules)
    curves = [{"policy": policy, "teacher_calls": calls, "seed": seed} for calls, seed, policy in triples]
    own = (
        [{"exploration": share} for share in (0.0, 0.25)]
        + [{"pairs_per_query": count} for count in (2, 5)]
        + [{"rounds": 10}]
    )
    middle = budgets[len(budgets) // 2]
    return [
        *curves,
        {"policy": "teacher", "teacher_calls": budgets[-1]},
        *({"policy": "on", "teacher_calls": middle, **change} for change in own),
        *(
            {"policy": policy, "teacher_calls": calls, "pairs_per_query": 2, "seed": seed}
            for policy, calls in (("on", budgets[-1] // 2), ("uniform", budgets[-1]), ("bm25", budgets[-1]))
            for seed in SEEDS
        ),
        *(
            {"policy": "on", "teacher_calls": budgets[-1] // 2, "pairs_per_query": 2, "exploration": 0.0, "seed": seed}
            for seed in SEEDS
        ),
    ]


def _side_by_side(task: str, teacher: str, settings: Options, dev: list[Any]) -> Job:
    """Returns the job of the students that are compared, all of one teacher, one seed, the same labelled queries."""
    variants = [{"system": name, **change} for name, change in STUDENTS.items()]
    options = {"tasks": [task], "teacher": teacher, "settings": settings, "variants": variants, "evaluate": [dev]}
    return Job(f"students-{task}", "students", options)


def _systems(task: str, split: str, teacher: str, limit: int | None, general: bool = True, **more: Any) -> Job:  # noqa: ANN401
    """All systems of a task on the same queries."""
    students = {name: f"students-{task}/{folder(name)}" for name in STUDENTS} if task in SINGLE else {}
    if general:
        students["retriever, general" if students else "retriever"] = "students-general/retriever"
    options = {"task": task, "split": split, "teacher": teacher, "limit": limit, "students": students, **more}
    if task in SINGLE:
        options["biencoder"] = f"biencoder-{task}"
    reranked = "" if more.get("reranker", True) else "-all"
    return Job(f"systems-{task}-{split}{reranked}", "systems", options)


def _transfer(task: str, limit: int | None) -> Job:
    """Question 5: models of MetaTool on documents and a task they never saw."""
    teacher = "teacher-metatool-apart"
    options = {"task": task, "split": "test", "teacher": teacher, "limit": limit, "biencoder": "biencoder-metatool"}
    return Job(
        f"systems-{task}-unseen", "systems", {**options, "students": {"retriever": f"students-of-{teacher}/retriever"}}
    )


def _apart(recipe: Options, training: Options, start: Options, others: list[str]) -> list[Job]:
    """Whether a teacher that is trained with a student in the loop can be distilled better; and into what."""
    evaluate = [["metatool", "dev", None], ["metatool", "dev", 30, "teacher"]]
    chosen = ("retriever", "retriever, quadratic", "labels-only")
    variants = [{"system": name, **STUDENTS[name]} for name in chosen]
    queue = []
    for name, weight in (("longer", 0.0), ("apart", 1.0)):
        settings = {**training, "student_weight": weight}
        options = {"tasks": ["metatool"], **start, "settings": settings, "evaluate": [["metatool", "dev", 30]]}
        queue.append(Job(f"teacher-metatool-{name}", "teacher", options))
    for name in (*others, "teacher-metatool-longer", "teacher-metatool-apart"):
        options = {"tasks": ["metatool"], "teacher": name, "settings": recipe, "variants": variants}
        queue.append(Job(f"students-of-{name}", "students", {**options, "evaluate": evaluate}))
    return queue


def _agreement(settings: Options) -> Job:
    """How far log-odds follow the teacher's over all pairs of 100 queries, if calls are spread evenly."""
    squares = {"log_odds_weight": 3.0, "kl_weight": 0.0, "policy": "uniform", "steps": 4000}
    best = {"teacher_calls": 16_000, "label_weight": 0.2}
    variants = [{**best, "teacher_calls": 4000}, best, {**best, "label_weight": 0.0}]
    variants += [{**best, "hidden_units": 512}, {**best, "hidden_units": 512, "predictor": "quadratic"}]
    evaluate = [["metatool", "dev", None], ["metatool", "dev", 100, "teacher"]]
    options = {"tasks": ["metatool"], "teacher": "tools", "settings": {**settings, **squares}, "variants": variants}
    return Job("agreement-metatool", "students", {**options, "evaluate": evaluate})


def folder(system: str) -> str:
    """Returns a system's name as a folder's."""
    return system.replace(", ", "-").replace(" ", "-")


def _cpu() -> list[Job]:
    mixed, short = ["metatool", "saycan_next", "esconv", *FACTS], {"query_tokens": 96}
    plain = {**PAPER, "label_weight": 0.0, "calibration_queries": 0}
    plain |= {"steps": 1500, "rounds": 5, "teacher_calls": 4000, "max_labelled_queries": 8192}
    tools = {"tasks": ["metatool"], "teacher": "tools", "evaluate": [["metatool", "dev", None]]}
    recipe = {"teacher_calls": 3000, "steps": 2000, "rounds": 6}
    on_tools = {**recipe, "max_labelled_queries": 2048}
    general = {"steps": 160, "learning_rate": 3e-4, "checkpoint_every": 20}
    return [
        # Uniform pairs are the same for all losses: bought once, and nothing but the loss differs.
        Job(
            "losses-metatool", "students", {**tools, "settings": {**plain, "policy": "uniform"}, "variants": _losses()}
        ),
        Job("policies-metatool", "students", {**tools, "settings": plain, "variants": _policies((1000, 2000, 4000))}),
        Job(
            "biencoder-metatool",
            "biencoder",
            {"task": "metatool", "settings": {"max_labelled_queries": 2048, "steps": 64, "batch": 32}},
        ),
        _side_by_side("metatool", "tools", on_tools, ["metatool", "dev", None]),
        _systems("metatool", "test", "tools", None, general=False, reranker=False),
        _systems("metatool", "test", "tools", 100, general=False),
        Job(
            "predictors-metatool",
            "students",
            {**tools, "settings": {**plain, "label_weight": 0.5}, "variants": _predictors((32, 128, 512))},
        ),
        _agreement(plain),
        *_apart(on_tools, {"steps": 64, "learning_rate": 3e-4, "checkpoint_every": 16}, {"model": "tools"}, ["tools"]),
        Job(
            "teacher-general",
            "teacher",
            {"tasks": mixed, "max_queries_per_dataset": 1200, "model": "tools", "prompt": short, "settings": general},
        ),
        *(
            Job(f"biencoder-{task}", "biencoder", {"task": task, "settings": {**o, **short, "batch": 32}})
            for task, o in (
                ("saycan_next", {"max_labelled_queries": 195, "steps": 24}),
                ("esconv", {"max_labelled_queries": 600, "steps": 19}),
            )
        ),
        _side_by_side(
            "saycan_next", "teacher-general", {**recipe, "max_labelled_queries": 195}, ["saycan_next", "dev", None]
        ),
        _systems("saycan_next", "test", "teacher-general", None, general=False),
        _side_by_side("esconv", "teacher-general", {**recipe, "max_labelled_queries": 600}, ["esconv", "dev", 200]),
        _systems("esconv", "test", "teacher-general", 200, general=False),
        Job(
            "students-general",
            "students",
            {
                "tasks": mixed,
                "max_queries_per_dataset": 2500,
                "teacher": "teacher-general",
                "settings": {"teacher_calls": 8000, "steps": 6000, "rounds": 6},
                "variants": [{"system": "retriever"}],
                "evaluate": [["metatool", "test", None], ["saycan_next", "test", None], ["esconv", "test", 200]],
            },
        ),
        # BM25 finds hardly any of their answers: they are added, for all systems.
        *(_systems(task, "test", "teacher-general", 60, first_stage="bm25s", with_relevant=True) for task in FACTS),
        *(
            _objective("saycan_next", objective, 24, model="teacher-general")
            for objective in ("listwise", "sft", "dpo")
        ),
        *(_transfer(task, limit) for task, limit in (("saycan_next", None), ("esconv", 200))),
    ]


def _gpu() -> list[Job]:
    mixed = ["metatool", "saycan_next", "esconv", *FACTS, "empathetic_response", "nfcorpus", "scifact"]
    full = {"steps": 3000, "queries_per_step": 32, "checkpoint_every": 200}
    sizes = {"metatool": 2000, "esconv": 1500, "saycan_next": 400}
    recipe = {"teacher_calls": 60_000, "steps": 8000}
    plain = {**PAPER, "label_weight": 0.0, "calibration_queries": 0, "steps": 6000}
    curves = (1000, 2000, 4000, 8000, 16_000, 32_000)
    all_of_it = {"teacher_calls": 200_000, "steps": 16_000}
    queue = [
        Job("teacher-general", "teacher", {"tasks": mixed, "settings": full}),
        Job("students-general", "students", _general(mixed, "teacher-general", all_of_it)),
    ]
    for task, steps in sizes.items():
        own = {"steps": steps, "queries_per_step": 32, "checkpoint_every": 200}
        cosine = {"max_labelled_queries": 10**6, "steps": steps, "batch": 128}
        queue += [
            Job(f"teacher-{task}", "teacher", {"tasks": [task], "settings": own}),
            Job(f"biencoder-{task}", "biencoder", {"task": task, "settings": cosine}),
            _side_by_side(task, f"teacher-{task}", recipe, [task, "dev", None]),
            _systems(task, "test", f"teacher-{task}", None),
        ]
    queue += [
        _systems("esconv", "test_turnstart", "teacher-esconv", None),
        *(
            _systems(task, "test", "teacher-general", None, first_stage="bm25s", with_relevant=task in FACTS)
            for task in mixed[3:]
        ),
        *(_passages(year) for year in (19, 20)),
    ]
    tools = {"tasks": ["metatool"], "teacher": "teacher-metatool", "evaluate": [["metatool", "dev", None]]}
    trials = {
        "losses": ({**plain, "teacher_calls": 16_000}, _losses()),
        "policies": (plain, _policies(curves)),
        "predictors": ({**plain, **recipe, "label_weight": 0.5}, _predictors((32, 64, 128, 256, 512))),
    }
    for name, (settings, variants) in trials.items():
        options = {**tools, "settings": settings, "variants": variants}
        queue.append(Job(f"{name}-metatool", "students", options))
    for task in ("metatool", "saycan_next"):
        queue += [_objective(task, objective, 800) for objective in ("listwise", "sft", "dpo")]
        queue += [_negatives(task, count, hard) for count in (1, 3, 7) for hard in (0.0, 0.7)]
    queue += _apart(recipe, {**full, "steps": 1000}, {"model": "teacher-metatool"}, ["teacher-metatool"])
    for left_out in mixed:
        rest = [task for task in mixed if task != left_out]
        queue += [
            Job(f"teacher-without-{left_out}", "teacher", {"tasks": rest, "settings": {**full, "steps": 1500}}),
            Job(
                f"students-without-{left_out}",
                "students",
                _general(rest, f"teacher-without-{left_out}", {"teacher_calls": 60_000, "steps": 8000}),
            ),
            Job(
                f"systems-without-{left_out}",
                "systems",
                {
                    "task": left_out,
                    "split": "test",
                    "teacher": f"teacher-without-{left_out}",
                    "limit": 300,
                    "students": {"retriever": f"students-without-{left_out}/retriever"},
                    **({} if left_out in SINGLE else {"first_stage": "bm25s"}),
                },
            ),
        ]
    return queue


def _general(tasks: list[str], teacher: str, settings: Options) -> Options:
    """The student of a mixture."""
    return {"tasks": tasks, "teacher": teacher, "settings": settings, "variants": [{"system": "retriever"}]}


def _passages(year: int) -> Job:
    """Re-ranking the official BM25 top 100: comparable with published figures."""
    run = f"runs/bm25_dl{year}.trec"
    return _systems("msmarco_dl1920", f"test_dl{year}", "teacher-general", None, first_stage=run)


def _objective(task: str, objective: str, steps: int, **more: Any) -> Job:  # noqa: ANN401
    """Question 1: what a teacher is trained for."""
    settings = {"steps": steps, "objective": objective, "checkpoint_every": 100}
    return Job(f"teacher-{task}-{objective}", "teacher", {**_measured(task, settings), **more})


def _negatives(task: str, count: int, hard: float) -> Job:
    """Question 1: how many negatives, and whether they are mined; pairs read are the same for all."""
    settings = {"steps": 3200 // (count + 1), "negatives": count, "hard_negative_share": hard, "checkpoint_every": 100}
    return Job(f"teacher-{task}-{count}-{'mined' if hard else 'random'}", "teacher", _measured(task, settings))


def _measured(task: str, settings: Options) -> Options:
    return {"tasks": [task], "settings": settings, "evaluate": [[task, "dev", 200]]}
