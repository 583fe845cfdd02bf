"""Measures over classes: how far apart features hold them (H-score), and what another classifier's answers say of them (LEEP)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tempering.ranking.evidence import Floats

Ints = NDArray[np.int64]
ENERGY = 0.8  # share of the variance that the features keep before they are grouped
GROUPS = 5  # groups of texts a class


def h_score(features: Floats, classes: Ints, shrink: bool = True) -> float:
    """How much of the features' variance, in units of their own, lies between classes: 0 to (number of classes - 1).

    *Paper*: Bao et al. 2019; Ibrahim, Ponomareva, Mazumder 2021 (shrinkage). *Formula*: tr(cov(f)^-1 cov(E[f | y])), over features f;
    with ``shrink`` tr(((1 - a) cov(f) + a v I)^-1 (1 - a) cov(E[f | y])), v the mean variance and a after Ledoit and Wolf 2004.
    *Differs*: without ``shrink`` the inverse is Moore and Penrose's, where features depend on each other. Few rows in many dimensions
    then look separated whatever their classes.
    """
    centered = features - features.mean(0)
    between = np.zeros_like(centered)
    for label in np.unique(classes):
        mine = classes == label
        between[mine] = centered[mine].mean(0)
    covariance, apart = (x.T @ x / len(x) for x in (centered, between))
    if not shrink:
        return float(np.trace(np.linalg.pinv(covariance, hermitian=True) @ apart))
    from sklearn.covariance import ledoit_wolf_shrinkage

    share, size = float(ledoit_wolf_shrinkage(centered, assume_centered=True)), float(np.trace(covariance)) / len(covariance)
    shrunk = (1.0 - share) * covariance + share * size * np.eye(len(covariance))
    return float(np.trace(np.linalg.lstsq(shrunk, (1.0 - share) * apart, rcond=None)[0]))


def leep(chances: Floats, classes: Ints) -> float:
    """Mean log probability of the classes, as they follow from another classifier's answers ``chances`` [rows, its classes]; at most 0.

    *Paper*: Nguyen et al. 2020 (LEEP). *Formula*: P(y, z) = 1/n sum over rows i of class y of theta_iz, P(y | z) = P(y, z) / P(z);
    LEEP = 1/n sum_i log sum_z P(y_i | z) theta_iz.
    """
    known, numbers = np.unique(classes, return_inverse=True)
    joint = np.eye(len(known))[numbers].T @ chances / len(chances)  # [classes, theirs]
    given = joint / np.maximum(joint.sum(0, keepdims=True), np.finfo(np.float64).tiny)
    expected = (chances * given[numbers]).sum(1)
    return float(np.log(np.maximum(expected, np.finfo(np.float64).tiny)).mean())


def n_leep(features: Floats, classes: Ints, seed: int = 0) -> float:
    """LEEP where there is no other classifier: the answers are the chances that a row belongs to each of a few groups of texts.

    *Paper*: Li et al. 2021 (NLEEP). *Formula*: principal components with 0.8 of the variance; a mixture of Gaussians with five
    components a class; theta = its posterior. *Differs*: diagonal covariances, and fewer components where there are few rows.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    found = PCA(n_components=ENERGY, svd_solver="full", random_state=seed).fit_transform(features)
    groups = max(2, min(GROUPS * len(np.unique(classes)), len(features) // 4))
    scaled = found / max(float(found.std()), np.finfo(np.float64).tiny)
    mixture = GaussianMixture(groups, covariance_type="diag", reg_covar=1e-4, random_state=seed, max_iter=50, tol=1e-2)
    return leep(mixture.fit(scaled).predict_proba(scaled), classes) if math.isfinite(float(scaled.sum())) else -math.inf
