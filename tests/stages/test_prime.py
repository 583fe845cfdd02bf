"""Priming: what it moves, what it leaves, and that its loop is the one on paper."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering import batching
from tempering.contracts import Seeds
from tempering.errors import CollapseError, DataError, RecipeError
from tempering.fitting import fit
from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.framings.token_head import TokenHead
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.stages.episodes import Nursery
from tempering.stages.prime import Prime
from tempering.stages.priming import Progress, _better, _episode, _prepare, _step
from tempering.stages.setup import Surroundings, assemble
from tempering.stages.train import Train
from tempering.train.device import place
from tempering.train.meta import accumulate
from tempering.train.schedule import factor
from tempering.tunings.adalora import AdaLoRA
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tempering.tunings.parallel import Parallel
from tempering.tunings.pfeiffer import Pfeiffer
from tests.laws.bench import bits, differing
from tests.tiny import save_tiny, tiny_backbone, tiny_task

SEEDS = Seeds.of(0)
LIGHT = Houlsby(m=4, init_std=1e-2, layer_norm=False)
SMALL: dict[str, Any] = {
    "tuning": LIGHT, "outer_steps": 3, "inner_steps": 2, "inner_learning_rate": 0.1, "learning_rate": 1e-3, "tasks_per_step": 2,
    "support_rows": 4, "query_rows": 6, "warmup_steps": 0, "eval_strategy": "no",
}  # fmt: skip


def stage(write: Any, names: str = "ab", **given: Any) -> Prime:
    return Prime(sources=tuple(write(name, seed=i) for i, name in enumerate(names)), **(SMALL | given))


def nursery(made: Prime, backbone: Any = None) -> Nursery:
    found = Nursery.of(made, backbone or tiny_backbone(), made.learns(tiny_task()), SEEDS)
    _prepare(found, place(made.loop), SEEDS, Surroundings())
    return found


def meta_gradients(made: Prime, backbone: Any = None, step: int = 0) -> tuple[dict[str, torch.Tensor], Nursery, float]:
    found = nursery(made, backbone)
    trained = {n: w for n, w in found.learner.named_parameters() if n in found.outer}
    loss = _step(found, trained, Progress(step=step), place(made.loop))
    return {n: w.grad for n, w in trained.items() if w.grad is not None}, found, loss


def prime(made: Prime, backbone: Any, **around: Any) -> Any:
    return made.run(backbone, tiny_task(), SEEDS, around=Surroundings(**around))


def test_the_body_moves_and_nothing_else(write: Any) -> None:
    """G1: adapters and head are where they were drawn; the body holds what was learned, and no adapter hangs in it."""
    before, backbone = tiny_backbone().state_dict(), tiny_backbone()
    made = stage(write)
    start = bits(nursery(made, tiny_backbone()).learner)
    learner = prime(made, backbone)
    after = backbone.state_dict()
    assert after.keys() == before.keys()
    assert [n for n in after if "embeddings.word" in n or "attention" in n] and len(differing(before, after)) > 20
    moved = differing(start, bits(learner))
    assert moved and all(n.startswith("backbone.model.") and n.removeprefix("backbone.model.") in backbone.own for n in moved)
    assert all(w.grad is None for w in learner.parameters())


def test_an_episode_leaves_weights_and_gradients_alone(write: Any) -> None:
    made = stage(write)
    found = nursery(made)
    before = bits(found.learner)
    trained = {n: w for n, w in found.learner.named_parameters() if n in found.outer}
    _step(found, trained, Progress(), place(made.loop))
    assert differing(before, bits(found.learner)) == []
    assert {n for n, w in found.learner.named_parameters() if w.grad is not None} <= set(found.outer)


@pytest.mark.parametrize("given", [{"inner_steps": 0}, {"inner_learning_rate": 0.0}, {"inner_learning_rate": 0.0, "second_order": True}])
def test_without_inner_steps_it_is_the_mean_query_loss_of_the_body(write: Any, given: dict[str, Any]) -> None:
    """G2, against autograd on the learner itself."""
    grads, found, loss = meta_gradients(made := stage(write, **given))
    learner = found.learner.eval()
    total = 0.0
    for slot, source in enumerate(found.chosen(0)):
        _, (query,) = found.batches(source, 0, 0, slot)
        part = learner.framing.loss(learner(query), query) / made.tasks_per_step
        part.backward()
        total += float(part.detach())
    assert loss == pytest.approx(total, rel=1e-6)
    for name, weight in learner.named_parameters():
        if name in found.outer and weight.grad is not None:
            torch.testing.assert_close(grads[name], weight.grad, atol=1e-6, rtol=1e-4)


def test_exact_meta_gradients_are_those_of_finite_differences(write: Any) -> None:
    """G3 on a whole model in double precision; first order is something else."""
    made = stage(write, inner_steps=2, inner_learning_rate=0.5, second_order=True, tuning=LoRA(r=2), framing=Head(dropout=0.0))
    found = nursery(made)
    found.learner.double()
    exact, _, loss = _again(found, made)
    name = "backbone.model.encoder.layer.1.output.dense.weight"
    weight, direction = dict(found.learner.named_parameters())[name], torch.zeros_like(exact[name])
    direction.view(-1)[exact[name].abs().flatten().topk(5).indices] = 1.0
    h, values = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(direction, alpha=sign * h)
        values.append(_again(found, made)[2])
        with torch.no_grad():
            weight.sub_(direction, alpha=sign * h)
    slope = float((exact[name] * direction).sum())
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(slope, rel=1e-5)
    found.stage = dataclasses.replace(made, second_order=False)
    first, _, same = _again(found, made)
    assert same == pytest.approx(loss, rel=1e-12)
    assert abs(float((first[name] * direction).sum()) - slope) > 1e-4 * abs(slope)


def _again(found: Nursery, made: Prime) -> tuple[dict[str, torch.Tensor], None, float]:
    trained = {n: w for n, w in found.learner.named_parameters() if n in found.outer}
    loss = _step(found, trained, Progress(), place(made.loop))
    return {n: w.grad.clone() for n, w in trained.items() if w.grad is not None}, None, loss


def test_first_order_comes_close_to_exact_as_the_rate_falls(write: Any) -> None:
    gaps = []
    for rate in (0.2, 0.02):
        pair = [meta_gradients(stage(write, inner_steps=1, inner_learning_rate=rate, second_order=exact))[0] for exact in (False, True)]
        gaps.append(sum(float((pair[0][n] - pair[1][n]).square().sum()) for n in pair[1]) ** 0.5)
    assert 5 < gaps[0] / gaps[1] < 20


def test_support_and_query_share_no_row_and_are_drawn_anew(write: Any) -> None:
    """G4."""
    found = nursery(stage(write))
    seen = set()
    for step in range(10):
        support, query = found.rows(0, 24, step, 0)
        assert len(set(support)) == 4 and len(set(query)) == 6 and not set(support) & set(query)
        assert found.rows(0, 24, step, 0) == (support, query)
        seen.add(tuple(support))
    assert len(seen) == 10
    assert found.rows(0, 24, 0, 0) != found.rows(1, 24, 0, 0)


def test_the_order_of_tasks_does_not_matter(write: Any) -> None:
    """G4: the same episodes, the last one first."""
    made = stage(write, "abc", tasks_per_step=5)
    grads, found, _ = meta_gradients(made)
    slots, total = list(enumerate(found.chosen(0))), dict[str, torch.Tensor]()
    episodes = [_episode(found, source, 0, slot, place(made.loop))[1] for slot, source in reversed(slots)]
    for gradients in episodes:
        accumulate(total, gradients, 1 / len(episodes))
    assert total.keys() == grads.keys()
    assert max(float(g.abs().max()) for g in grads.values()) > 1e-2
    for name, gradient in grads.items():
        torch.testing.assert_close(total[name], gradient, atol=1e-6, rtol=0)
    name = max(grads, key=lambda n: float(grads[n].abs().max()))
    assert any((episode[name] - grads[name]).abs().max() > 1e-4 for episode in episodes)


def test_every_source_comes_before_any_comes_again(write: Any) -> None:
    found = nursery(stage(write, "abc", tasks_per_step=7))
    for step in range(5):
        order = found.chosen(step)
        assert sorted(order[:3]) == sorted(order[3:6]) == [0, 1, 2] and len(order) == 7
    assert {tuple(nursery(stage(write, "abc", tasks_per_step=1)).chosen(s)) for s in range(20)} == {(0,), (1,), (2,)}


@pytest.mark.parametrize("light", [LoRA(r=2), Parallel(m=4), Houlsby(m=4, init_std=1e-9), Pfeiffer(reduction=8, init_std=1e-9)])
def test_zero_adapters_say_what_the_backbone_says(light: Any, write: Any) -> None:
    """G5: before any step a rehearsal with (near-)zero adapters scores as the plain model."""
    made = stage(write, tuning=light)
    found = nursery(made)
    plain = assemble(dataclasses.replace(made, tuning=Frozen()), tiny_backbone(), tiny_task(), SEEDS).eval()
    prompts = found.prompts(0)
    torch.testing.assert_close(found.learner.eval().score(prompts).only.logits, plain.score(prompts).only.logits, atol=1e-6, rtol=0)


def test_what_is_tuned_afterwards_is_as_much_as_without_priming(write: Any) -> None:
    """G7."""
    after = Train(tuning=LIGHT, max_steps=1)
    counts = [
        fit(Recipe("r", stages), tiny_task(), tiny_backbone()).record["trained_parameters"] for stages in ((after,), (stage(write), after))
    ]
    assert counts[0] == counts[1]


def test_rehearsals_learn(write: Any) -> None:
    """G8: the support loss falls in the inner loop, and is told with the scores of every source."""
    told: list[dict[str, Any]] = []
    made = stage(write, inner_steps=5, inner_learning_rate=0.5, eval_strategy="steps", eval_steps=2)
    learner = prime(made, tiny_backbone(), listener=told.append)
    metrics = [e["metrics"] for e in told if e["event"] == "evaluate"]
    assert len(metrics) == 2 == len(learner.record["stage"]["history"])
    for found in metrics:
        assert all(found[f"{n}/support_after"] < found[f"{n}/support_before"] for n in "ab")
        assert found["mean"] == pytest.approx((found["a/accuracy"] + found["b/accuracy"]) / 2)
    assert [e["step"] for e in told if e["event"] == "step"] == [1, 2, 3]


def test_few_rows_and_a_missing_class_are_no_mishap(write: Any) -> None:
    """G9."""
    made = Prime(sources=(write("few", rows=2, dev=4), write("b", seed=1)), **(SMALL | {"support_rows": 1, "query_rows": 1}))
    learner = prime(made, tiny_backbone())
    assert learner.record["stage"]["sources"] == {"few": 2, "b": 24}
    lone = Prime(sources=(write("b"),), **(SMALL | {"support_rows": 30, "query_rows": 60}))
    support, query = nursery(lone).rows(0, 24, 0)
    assert (len(support), len(query)) == (8, 16)


def test_the_loop_is_the_one_on_paper(write: Any) -> None:
    """Three outer steps written out by hand, with modules changed in place instead of named weights."""
    made = stage(write, max_grad_norm=0.0, weight_decay=0.0)
    backbone = tiny_backbone()
    primed = dict(prime(made, backbone).named_parameters())
    found = nursery(made)
    learner = found.learner.eval()
    names = [n for n, _ in learner.named_parameters()]
    phi = [n for n in names if n in found.phi]
    assert phi == [n for n in names if n not in found.outer]
    body = [w for n, w in learner.named_parameters() if n in found.outer]
    optimizer = torch.optim.AdamW(body, lr=made.learning_rate, weight_decay=0.0)
    for step in range(3):
        sums: list[Any] = [torch.zeros_like(w) for w in body]
        for slot, source in enumerate(found.chosen(step)):
            copied = copy.deepcopy(learner)
            inside = dict(copied.named_parameters())
            (support,), (query,) = found.batches(source, 0, step, slot)
            for _ in range(2):
                for weight in inside.values():
                    weight.grad = None
                    weight.requires_grad_(True)
                copied.framing.loss(copied(support), support).backward()
                with torch.no_grad():
                    for name in phi:
                        inside[name].sub_(0.1 * inside[name].grad)
            slopes = torch.autograd.grad(copied.framing.loss(copied(query), query), [inside[n] for n in found.outer], allow_unused=True)
            sums = [total if g is None else total + g / 2 for total, g in zip(sums, slopes, strict=True)]
        for group in optimizer.param_groups:
            group["lr"] = made.learning_rate * factor("linear", step, 3, 0)
        for weight, total in zip(body, sums, strict=True):
            weight.grad = total if bool(total.abs().sum()) else None
        optimizer.step()
    for name, weight in learner.named_parameters():
        torch.testing.assert_close(primed[name], weight, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["texts", "words"])
@pytest.mark.parametrize("second_order", [False, True])
def test_rows_of_like_length_together_have_the_gradients_of_all_in_one_batch(
    kind: str, second_order: bool, write_tags: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "texts":
        texts = [("good " * (1 + 3 * (i % 7)), "bad " * (1 + 2 * (i % 5))) for i in range(12)]
        rows = [{"text": text, "label": text[:3]} for both in texts for text in both]
        (source := tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"sources": (str(source) if kind == "texts" else write_tags("x"),), "framing": Head() if kind == "texts" else TokenHead()}
    found = []
    for spare in (10**9, 0):
        monkeypatch.setattr(batching, "SPARE", spare)
        more = {"second_order": second_order, "support_rows": 6, "query_rows": 8, "tasks_per_step": 1}
        made = Prime(**(SMALL | given | more))
        grads, made_of, loss = meta_gradients(made)
        parts = [len(batches) for batches in made_of.batches(0, 0, 0, 0)]
        found.append((grads, loss, parts))
    (whole, loss, one), (cut, other, several) = found
    assert one == [1, 1] and min(several) > 1 and other == pytest.approx(loss, rel=1e-5)
    assert set(whole) == set(cut) and any(bool(g.abs().sum()) for g in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, atol=1e-6, rtol=1e-4)


def test_plain_maml_moves_the_body_inside(write: Any) -> None:
    light, whole = (nursery(stage(write, inner=inner)) for inner in ("tuning", "all"))
    assert set(light.moved) == set(light.phi) and set(whole.moved) == set(whole.phi) | set(whole.outer)
    assert set(light.outer) == set(whole.outer)
    one, other = (meta_gradients(stage(write, inner=inner))[2] for inner in ("tuning", "all"))
    assert one != other
    everything = nursery(stage(write, inner="all", tuning=Full()))
    assert set(everything.outer) == {n for n, _ in everything.learner.named_parameters() if n.startswith("backbone.model.")}
    assert differing(tiny_backbone().state_dict(), _primed(stage(write, inner="all", tuning=Frozen())))


def _primed(made: Prime) -> dict[str, torch.Tensor]:
    backbone = tiny_backbone()
    prime(made, backbone)
    return backbone.state_dict()


def test_the_three_ways_with_heads(write: Any) -> None:
    found = {heads: nursery(stage(write, heads=heads)) for heads in ("shared", "fresh", "kept")}
    name = "framing.final.weight"
    assert torch.equal(found["shared"].weights(0, 1, 0)[name], found["shared"].weights(1, 2, 1)[name])
    fresh = [found["fresh"].weights(0, step, 0)[name] for step in (1, 1, 2)]
    assert torch.equal(fresh[0], fresh[1]) and not torch.equal(fresh[0], fresh[2])
    kept = found["kept"]
    before = [head[name].clone() for head in kept.heads]
    trained = {n: w for n, w in kept.learner.named_parameters() if n in kept.outer}
    _step(kept, trained, Progress(), place(kept.stage.loop))
    assert all(not torch.equal(kept.heads[i][name], before[i]) for i in range(2))
    assert not torch.equal(kept.heads[0][name], kept.heads[1][name])
    bodies = [_primed(stage(write, heads=heads)) for heads in ("shared", "fresh", "kept")]
    assert differing(bodies[0], bodies[1]) and differing(bodies[0], bodies[2]) and differing(bodies[1], bodies[2])


def test_heads_of_their_own_may_have_labels_of_their_own(write: Any) -> None:
    sources = (write("a"), write("c", seed=1, good="fine", bad="poor"))
    prime(Prime(sources=sources, heads="fresh", **SMALL), tiny_backbone())
    with pytest.raises(
        RecipeError, match=r"a \(classification into bad, good\) and c \(classification into fine, poor\) cannot share a head"
    ):
        prime(Prime(sources=sources, **SMALL), tiny_backbone())


def test_a_learned_start_goes_on_in_the_next_stage(write: Any) -> None:
    made = stage(write, outer_trains="body_and_start", keep_head="head", keep_tuning="adapters", learning_rate=1e-2)
    around, backbone = Surroundings(), tiny_backbone()
    learner = made.run(backbone, tiny_task(), SEEDS, around=around)
    drawn = dict(nursery(made, tiny_backbone()).learner.named_parameters())
    started = dict(learner.named_parameters())
    assert not torch.equal(started["framing.final.weight"], drawn["framing.final.weight"])
    assert any("houlsby" in n or "adapter" in n for n in around.kept["adapters"].tensors)
    one = {"max_steps": 1, "learning_rate": 1e-12, "load_best_model_at_end": False, "tuning": LIGHT}
    after = Train(reuse_head="head", reuse_tuning="adapters", **one).run(backbone, tiny_task(), SEEDS, around=around)
    for name, weight in after.named_parameters():
        torch.testing.assert_close(weight, started[name], atol=1e-6, rtol=0)
    with pytest.raises(RecipeError, match="kept by"):
        Train(reuse_tuning="adapters", **(one | {"tuning": LoRA(r=2)})).run(tiny_backbone(), tiny_task(), SEEDS, around=around)


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_other_kinds_of_task(write: Any, kind: str) -> None:
    made = Prime(sources=(write("a", kind=kind), write("b", kind=kind, seed=1)), **(SMALL | {"eval_strategy": "steps", "eval_steps": 3}))
    learner = made.run(tiny_backbone(), tiny_task(24, kind), SEEDS)
    assert np.isfinite(learner.record["stage"]["history"][-1]["mean"])


@pytest.mark.parametrize("family", ["roberta", "distilbert", "modernbert", "gpt2", "t5"])
@pytest.mark.parametrize("second_order", [False, True])
def test_other_families(write: Any, family: str, second_order: bool) -> None:
    made = stage(write, second_order=second_order, tuning=LoRA(r=2), outer_steps=1)
    backbone = tiny_backbone(family)
    before = {n: t.clone() for n, t in backbone.state_dict().items()}
    made.run(backbone, tiny_task(), SEEDS)
    assert differing(before, backbone.state_dict())


def test_the_best_body_is_kept(write: Any) -> None:
    made = stage(write, eval_strategy="steps", eval_steps=1, learning_rate=5e-2, outer_steps=4)
    learner = prime(made, tiny_backbone())
    record = learner.record["stage"]
    best = max(record["history"], key=lambda h: (h["mean"], -h["loss"]))
    assert record["best_step"] == best["step"] and record["best_kept"]
    short = prime(dataclasses.replace(made, eval_strategy="no", lr_scheduler_type="constant"), tiny_backbone())
    assert short.record["stage"]["history"] == []


def test_of_equal_scores_the_smaller_loss_is_the_better() -> None:
    """F1 is 0 at every look while no entity is found, and the earliest body would be kept for good."""
    run = Progress()
    for step, (score, loss, better) in enumerate(
        [(0.0, 1.4, True), (0.0, 1.5, False), (0.0, 1.3, True), (0.2, 9.0, True), (0.1, 0.1, False)]
    ):
        run.history.append({"step": step, "loss": loss})
        assert _better(score, run) is better
        if better:
            run.best, run.best_step = score, step


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sources": ()}, "names none; set  stages.0.sources"),
        ({"gradient_checkpointing": True}, "set it to false"),
        ({"framing": MaskedLM()}, "reads no labels"),
        ({"tuning": AdaLoRA()}, "adalora acts while it trains"),
        ({"tuning": Full()}, "plain MAML: set inner: all"),
        ({"heads": "fresh", "keep_head": "h"}, "set heads: shared"),
    ],
)
def test_what_it_refuses_before_anything_is_read(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe("r", (Prime(**({"sources": ("a.csv",)} | given)), Train())).check()


def test_it_is_never_the_last_stage() -> None:
    with pytest.raises(RecipeError, match="no stage follows"):
        Recipe("r", (Prime(sources=("a.csv",)),)).check()


def test_what_it_refuses_once_it_sees_the_data(write: Any) -> None:
    with pytest.raises(RecipeError, match="source a is regression, and your task task is classification"):
        prime(Prime(sources=(write("a", kind="regression"),), **SMALL), tiny_backbone())
    with pytest.raises(DataError, match=r"data 'none.jsonl' of a stage: .* no such file.* in stages\.0\.sources"):
        fit(Recipe("r", (Prime(sources=("none.jsonl",), **SMALL), Train())), tiny_task(), tiny_backbone())
    with pytest.raises(CollapseError, match="lower inner_learning_rate"):
        prime(stage(write, inner_learning_rate=1e30, inner_steps=4), tiny_backbone())


def test_notes_about_starts_that_go_nowhere() -> None:
    notes = Recipe("r", (Prime(sources=("a",), outer_trains="body_and_start"), Train())).check()
    assert any("learned and then dropped" in note for note in notes)
    kept = (Prime(sources=("a",), keep_tuning="t"), Train(tuning=Houlsby(), reuse_tuning="t"))
    assert any("as it was drawn" in note for note in Recipe("r", kept).check())


def test_a_rehearsal_of_another_tuning_is_noted() -> None:
    def notes(following: Any) -> list[str]:
        return Recipe("r", (Prime(sources=("a",), tuning=LIGHT), Train(tuning=following))).check()

    assert notes(LIGHT) == []
    (note,) = notes(LoRA(r=2))
    assert note.startswith('r: stages.0 prepares the model for tuning {"houlsby"') and 'r: stages.1 trains {"lora"' in note


def test_explain_says_what_the_outer_loop_trains(write: Any, tmp_path: Any) -> None:
    base = str(save_tiny("bert", tmp_path / "base"))
    made = stage(write)
    plan = explain(Recipe("r", (made, Train(tuning=LIGHT))), base, tiny_task()).stages[0]
    learner = nursery(made).learner
    assert plan.backbone_trained == sum(w.numel() for w in learner.trained().values()) and plan.head_trained == 0
    assert (plan.students, plan.steps, plan.rows, plan.batch) == (3, 3, 48, 20)
    assert plan.passes == made.passes_per_step == 3 * made.tasks_per_step


def test_memory_is_that_of_one_episode(write: Any, tmp_path: Any) -> None:
    base = str(save_tiny("bert", tmp_path / "base"))

    def memory(**given: Any) -> Any:
        made = stage(write, support_rows=4, query_rows=6, inner_steps=3, **given)
        return explain(Recipe("r", (made, Train(tuning=LIGHT))), base, tiny_task()).stages[0].memory

    first, second, still = memory(), memory(second_order=True), memory(inner_learning_rate=0.0)
    assert (first.texts, second.texts, still.texts) == (6, 3 * 4 + 6, 6)
    assert second.activations == 3 * first.activations == 3 * still.activations
    assert "activations of 6 texts" in first.words(8)


def test_as_many_passes_as_it_says(write: Any) -> None:
    assert prime(made := stage(write), tiny_backbone()).record["stage"]["passes"] == 3 * made.passes_per_step
