"""The arms of the table of Gururangan et al. 2020, the corpora they read, and what the paper says of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

TASKS = ("chemprot", "ag_news_7k", "imdb_2k", "sst2")
ARMS = ("none", "DAPT", "TAPT", "DAPT + TAPT", "other domain")
DOMAINS = {"chemprot": "ncbi_disease", "ag_news_7k": "hyperpartisan", "imdb_2k": "imdb_reviews", "sst2": "imdb_reviews"}
OTHER = "books"
ORDER = (  # (better, worse) in the paper
    ("DAPT", "none"),
    ("TAPT", "none"),
    ("DAPT + TAPT", "none"),
    ("DAPT + TAPT", "DAPT"),
    ("DAPT + TAPT", "TAPT"),
    ("DAPT", "other domain"),
)


def plan(args: argparse.Namespace) -> list[tuple[str, str, int]]:
    """(task, arm, seed), seed by seed, so that what is done of an unfinished run is paired."""
    return [(task, arm, seed) for seed in range(args.seeds) for task in args.tasks for arm in args.arms if task in tasks_of(arm, args)]


def tasks_of(arm: str, args: argparse.Namespace) -> list[str]:
    """The tasks that an arm is tried on."""
    return [task for task in args.tasks if arm != ARMS[-1] or task in args.other_tasks]


def key(task: str, arm: str, seed: int) -> str:
    """The name of a cell."""
    return f"{task}/{arm}/{seed}"


def stages(task: str, arm: str) -> list[tuple[str, str]]:
    """What an arm does before fine-tuning: (recipe, corpus) in order; a corpus named as the task is its own training rows' texts."""
    dapt, tapt = ("dapt", DOMAINS[task]), ("tapt", task)
    return {"none": [], "DAPT": [dapt], "TAPT": [tapt], "DAPT + TAPT": [dapt, tapt], "other domain": [("dapt", OTHER)]}[arm]


def read(recipe: str, corpus: str) -> str:
    """What a cell calls the reading of a corpus."""
    return f"{recipe}-{corpus}"


def groups(pair: Sequence[str], args: argparse.Namespace) -> list[list[str]]:
    """The tasks on which both arms are tried, those together whose runs start from the same adapted models."""
    tasks = [task for task in args.tasks if all(task in tasks_of(arm, args) for arm in pair)]
    if ARMS[-1] in pair:
        return [tasks] if tasks else []
    return [[t for t in tasks if DOMAINS[t] == domain] for domain in dict.fromkeys(DOMAINS[t] for t in tasks)]
