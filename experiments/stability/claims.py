"""What the theory says, claim by claim, and the three worlds in which it is measured."""

from __future__ import annotations

import math

import linear
import networks
from judging import FALLS, RISES, Claim
from worlds import REMOVED, STARTS

CONVEX, HEAD, FULL = "head tuning with a penalty", "head tuning", "full fine-tuning"
REMOVAL = "distance when one row is left out"
TURNED = "distance of directions when one row is left out"
SEEDS = "distance of directions between starts"
CHANCES = "difference of predictions between seeds"
HALF = (-0.6, -0.4)

CLAIMS = (
    Claim("convex-rows", CONVEX, "falls as 1 / n, within 2 L / (mu n)", "rows n", REMOVAL, (-1.1, -0.9), linear.convex_rows),
    Claim(
        "convex-lipschitz",
        CONVEX,
        "rises with the loss's Lipschitz constant, within 2 L / (mu n)",
        "scale of the loss",
        REMOVAL,
        RISES,
        linear.convex_lipschitz,
    ),
    Claim(
        "convex-curvature",
        CONVEX,
        "falls with the curvature mu, within 2 L / (mu n)",
        "penalty mu",
        REMOVAL,
        FALLS,
        linear.convex_curvature,
    ),
    Claim(
        "convex-steps",
        CONVEX,
        "from different starts falls with the steps, within 2 L / (mu n) + (1 - eta mu)^T (both distances to the start)",
        "steps T",
        REMOVAL,
        FALLS,
        linear.convex_steps,
    ),
    Claim("head-rows", HEAD, "falls with the rows", "rows n", TURNED, FALLS, linear.head_rows),
    Claim("head-margin", HEAD, "falls with the margin", "gap between the classes", TURNED, FALLS, linear.head_margin),
    # The bound of the published head tuning falls with the margin gamma, and has no word on seeds: the published direction, read for them.
    Claim(
        "head-margin-seeds",
        HEAD,
        "falls with the margin (the same claim read for seeds)",
        "gap between the classes",
        SEEDS,
        FALLS,
        linear.head_margin_seeds,
        "Classes far apart are fitted in a few steps, the gradient then vanishes, and what the start had put beside their direction stays "
        "in the weights. A larger margin is stabler against a changed row from a shared start, and less stable against a changed seed.",
    ),
    Claim(
        "head-steps",
        HEAD,
        "falls with the steps (published, for directions)",
        "steps T",
        TURNED,
        FALLS,
        linear.head_steps,
        "From a shared small start the two directions are as far apart after ten steps as after a thousand: the published bound falls "
        "as log log t / log t because it bounds each model's distance to its own limit, and a shared start makes these errors alike.",
    ),
    Claim(
        "head-steps-raw",
        HEAD,
        "falls with the steps (the same claim read for raw weights)",
        "steps T",
        REMOVAL,
        FALLS,
        linear.head_steps_raw,
        "On separable rows the weights grow without end, and the difference of two models grows with them. Stability of a linear head "
        "has to be said of directions.",
    ),
    Claim("head-steps-seeds", HEAD, "falls with the steps", "steps T", SEEDS, FALLS, linear.head_steps_seeds),
    Claim(
        "head-rate",
        HEAD,
        "rises with the learning rate (published: a smaller rate is stabler)",
        "learning rate",
        REMOVAL,
        RISES,
        linear.head_rate_raw,
    ),
    Claim(
        "head-rate-seeds",
        HEAD,
        "rises with the learning rate (the same claim read for seeds)",
        "learning rate",
        SEEDS,
        RISES,
        linear.head_rate_seeds,
        "At a fixed number of steps a small rate leaves each model near where it started, and the starts differ. A smaller rate is "
        "stabler against a changed row from a shared start, and less stable against a changed seed.",
    ),
    Claim("head-start", HEAD, "rises with the distance to the start", "size of the start", SEEDS, RISES, linear.head_start),
    Claim("head-heads", HEAD, "falls as the root of the number of heads (MHLoss)", "heads H", SEEDS, HALF, linear.head_heads),
    # Several heads are published as faster convergence, which is the bound's first term, and the bound is of sets that differ in one row.
    Claim(
        "head-heads-removed",
        HEAD,
        "falls with the number of heads (MHLoss, as published)",
        "heads H",
        TURNED,
        FALLS,
        linear.head_heads_removed,
        "Both models start from the same heads: what a mean over heads takes off each model's error it takes off both alike, and their "
        "distance stays. Several heads steady where the starts differ (head-heads).",
    ),
    Claim("full-rows", FULL, "falls with the rows, at least as n^(-1/4)", "rows n", REMOVAL, (-math.inf, -0.25), networks.full_rows),
    Claim("full-rows-seeds", FULL, "falls with the rows", "rows n", CHANCES, FALLS, networks.full_rows_seeds),
    Claim("full-lipschitz", FULL, "rises with the loss's Lipschitz constant", "scale of the loss", REMOVAL, RISES, networks.full_lipschitz),
    # The published bound of full fine-tuning rises with L because L limits how far any model ends from the optimum, whatever its seed.
    Claim(
        "full-lipschitz-seeds",
        FULL,
        "rises with the loss's Lipschitz constant (the same claim read for seeds)",
        "scale of the loss",
        CHANCES,
        RISES,
        networks.full_lipschitz_seeds,
        "Under plain gradient descent a loss times two is a rate times two, exactly, and at a fixed number of steps the larger rate leaves "
        "less of the start (full-rate-seeds). A steep loss is less stable against a changed row, and stabler against a changed seed.",
    ),
    Claim(
        "full-start",
        FULL,
        "rises with the distance to the start (what SURT shortens)",
        "move of the start",
        REMOVAL,
        RISES,
        networks.full_start,
    ),
    Claim("full-start-seeds", FULL, "rises with the distance to the start", "move of the start", CHANCES, RISES, networks.full_start_seeds),
    Claim("full-steps", FULL, "rises with the steps (after Hardt et al. 2016)", "steps T", REMOVAL, RISES, networks.full_steps),
    Claim(
        "full-steps-seeds", FULL, "falls with the steps (longer training steadies)", "steps T", CHANCES, FALLS, networks.full_steps_seeds
    ),
    Claim("full-rate", FULL, "rises with the learning rate", "learning rate", REMOVAL, RISES, networks.full_rate),
    # No rate is in the published bound of full fine-tuning. After T steps (1 - eta mu)^T of the distance between starts is left: less,
    # the larger the rate (spec: true for seeds at fixed T, where "a smaller rate is stabler" is not).
    Claim(
        "full-rate-seeds",
        FULL,
        "falls with the learning rate (after T steps (1 - eta mu)^T of the start is left)",
        "learning rate",
        CHANCES,
        FALLS,
        networks.full_rate_seeds,
    ),
    Claim("full-heads", FULL, "falls with the number of heads (MHLoss)", "heads H", CHANCES, FALLS, networks.full_heads),
    Claim("full-mmr", FULL, "falls with the weight of the margin's term (MMR)", "weight of the term", CHANCES, FALLS, networks.full_mmr),
)

WORLDS = {
    CONVEX: f"Two Gaussian classes in {linear.D} features, logistic loss and mu / 2 |w|^2; minimizers by Newton's method, or gradient "
    f"descent. {REMOVED} rows of each set are left out, one at a time.",
    HEAD: "The same rows without a penalty: gradient descent on (mostly) separable features. Rows are left out from a small start that "
    f"both models share; seeds are {STARTS} different starts.",
    FULL: f"A network of {networks.WIDTH} tanh units on {networks.NET_D} features, pretrained on 400 rows of a source task, tuned on "
    f"{networks.NET_ROWS} rows of a target turned by 45 degrees with stochastic gradient descent. Rows are left out with the same new head "
    f"and order; seeds are {STARTS} new heads and orders, compared by P(y) on 100 new rows. Where the start is moved, all models of a set "
    "start from the same moved body.",
}
