"""How the experiments judge: one verdict a claim, last stages that are trained enough, and splits that are cut the same way every time."""

# ruff: noqa: F811 - the fixture `script` is imported and then asked for by its name
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.test_experiments import Loader, fake, opened, script  # noqa: F401 - a fixture

NONE = {"a": [0.0] * 3, "b": [0.0] * 3}
GAINS = {"a": [0.01, 0.02, 0.03], "b": [0.02, 0.03, 0.05]}


def p_of(values: list[float]) -> float:
    return float(stats.ttest_1samp(values, 0).pvalue)


def test_tasks_that_share_a_model_are_tested_as_their_mean(script: Loader) -> None:
    script("tagging")
    import verdicts

    claim = verdicts.together(GAINS, NONE, [["a", "b"]])
    assert claim.difference == pytest.approx(0.16 / 6) and claim.p == pytest.approx(p_of([0.015, 0.025, 0.04]), rel=1e-6)
    assert claim.pair is not None and claim.pair.seeds == 3
    ragged = GAINS | {"b": [0.02, 0.03, math.nan]}  # a seed counts where all of a group have it
    assert verdicts.together(ragged, NONE, [["a", "b"]]).p == pytest.approx(p_of([0.015, 0.025]), rel=1e-6)


def test_tests_of_groups_that_share_no_model_are_joined_by_their_quantiles(script: Loader) -> None:
    script("tagging")
    import verdicts

    def quantile(values: list[float]) -> float:
        return float(stats.norm.isf(p_of(values) / 2))

    apart = verdicts.together(GAINS, NONE, [["a"], ["b"]])
    wanted = 2 * float(stats.norm.sf((quantile(GAINS["a"]) + quantile(GAINS["b"])) / math.sqrt(2)))
    assert apart.p == pytest.approx(wanted, rel=1e-6) and apart.pair is None and apart.difference == pytest.approx(0.16 / 6)
    against = verdicts.together(GAINS, NONE | {"b": [0.5, 1.0, 0.1]}, [["a"], ["b"]])  # a is surer of more than b of less
    assert against.difference < 0 and against.p == 1.0
    assert math.isnan(verdicts.together({"a": [math.nan]}, {"a": [1.0]}, [["a"]]).difference)


def test_error_rate_is_kept_where_tasks_share_a_model_and_vary_unlike(script: Loader) -> None:
    """Under no difference 5 % of verdicts are wrong, not more; with one of 4 points most are found, which the mean over all would not."""
    script("tagging")
    import verdicts

    rng, names, deviations = np.random.default_rng(0), "abcd", (0.03, 0.01, 0.02, 0.02)
    none = {name: [0.0] * 3 for name in names}

    def share(gain: float, groups: list[list[str]], level: float) -> float:
        found = 0
        for _ in range(400):
            common = rng.normal(size=3)
            noise = {n: 0.7 * common + 0.7 * rng.normal(size=3) if n in "cd" else rng.normal(size=3) for n in names}
            scores = {n: [gain + d * float(x) for x in noise[n]] for n, d in zip(names, deviations, strict=True)}
            found += verdicts.together(scores, none, groups).p < level
        return found / 400

    grouped = [["a"], ["b"], ["c", "d"]]
    assert share(0.0, grouped, 0.05) < 0.08
    assert share(0.04, grouped, 0.05 / 6) > 0.8 > 0.5 > share(0.04, [list(names)], 0.05 / 6)


def test_claims_are_corrected_after_holm_and_told_in_words(script: Loader) -> None:
    script("tagging")
    import verdicts

    claims = {
        "sure": verdicts.Claim(0.05, 0.01),
        "worse": verdicts.Claim(-0.04, 0.02),
        "weak": verdicts.Claim(0.01, 0.4),
        "same": verdicts.Claim(0.0, 1.0),
        "absent": verdicts.Claim(math.nan, 1.0),
    }
    said = verdicts.verdicts(claims)
    assert said["sure"] == ("+5.0", "0.040", "holds")  # 4 times 0.01: what was not run is no test
    assert said["worse"] == ("-4.0", "0.060", "not decided (other direction)")  # 3 times 0.02
    assert said["weak"][2] == "not decided (right direction)" and said["same"][2] == "not decided (no difference)"
    assert said["absent"] == ("", "", "not run")
    del claims["same"], claims["weak"]
    assert verdicts.verdicts(claims)["worse"] == ("-4.0", "0.020", "is reversed")
    assert verdicts.counted(["holds", "not run", "holds"]) == "2 of 3 holds; 1 of 3 not run"


def test_adaptation_is_judged_once_a_claim_and_other_domains_on_some_tasks(script: Loader, tmp_path: Path) -> None:
    module = script("run in adaptive")
    import domains
    import tables

    args = module.parsed(["--other-tasks", "imdb_2k,sst2"])
    assert len(module.plan(args)) == 3 * (4 * 4 + 2) and ("chemprot", "other domain", 0) not in module.plan(args)
    assert domains.groups(("DAPT", "none"), args) == [["chemprot"], ["ag_news_7k"], ["imdb_2k", "sst2"]]
    assert domains.groups(("DAPT", "other domain"), args) == [["imdb_2k", "sst2"]]
    cells = opened(module, tmp_path)
    fake(cells, [module.key(*c) for c in module.plan(args)], lambda k: 0.9 + 0.001 * int(k[-1]) if "/DAPT/" in k else 0.8)
    _, claims, each = tables.order(cells, args)
    assert len(claims) == 6 and len(each) == 5 * 4 + 2
    assert claims[0][:4] == ["DAPT", "none", "chemprot, ag_news_7k, imdb_2k, sst2", "+10.1"] and claims[0][-1] == "holds"
    assert claims[5][:3] == ["DAPT", "other domain", "imdb_2k, sst2"] and "p =" not in str(each)
    del cells.done["chemprot/none/0"]
    assert "not run" not in module.report(cells, args)


def test_an_arm_of_intermediate_training_is_judged_by_the_mean_over_its_targets(script: Loader, tmp_path: Path) -> None:
    module = script("intermediate")
    args = module.parsed(["--seeds", "3"])
    cells = opened(module, tmp_path)
    fake(cells, [module.key(*c) for c in module.plan(args)], lambda k: 0.9 + 0.001 * int(k[-1]) if "stilts" in k else 0.8)
    said = module.table(cells, args)
    assert "| stilts | rte, mrpc, stsb | +10.1 (+9.9 to +10.3) | 0.000 | holds |" in said
    assert "| rte | stilts | +10.1 (+9.9 to +10.3) |" in said and "| snli_10k | stilts |" not in said


def test_last_stages_are_long_enough_and_alike(script: Loader) -> None:
    module = script("ranking")
    args = module.parsed(["weight_decay=0.01"])
    full, lora, head = (module.last_stage(name, args).stages[-1] for name in ("full", "lora", "head"))
    assert (full.min_steps, full.learning_rate, full.weight_decay) == (300, 1e-4, 0.01)
    assert (lora.min_steps, lora.learning_rate) == (300, 1e-3) and (head.min_steps, head.learning_rate) == (400, 1e-2)
    given = module.parsed(["--min-steps", "500", "--learning-rate", "2e-4", "learning_rate=3e-5"])
    assert (given.min_steps, module.last_stage("full", given).stages[-1].learning_rate) == (500, 3e-5)  # what is set by name comes last


def test_judged_rows_are_cut_once(script: Loader, tmp_path: Path) -> None:
    module = script("tagging")
    rows = [json.dumps({"text": f"text {i}", "label": "ab"[i % 2]}) for i in range(60)]
    for split in ("train", "dev", "test"):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    one, other = (module.load(tmp_path, "x", 20, 10) for _ in range(2))
    assert len(one.dev) == 10 and len(one.test) == 20 and len(one.train) == 60
    assert [e.row for e in one.dev] == [e.row for e in other.dev] == sorted(e.row for e in one.dev)
    assert [e.row for e in one.dev] != list(range(1, 11)) and len(module.load(tmp_path, "x").dev) == 60
