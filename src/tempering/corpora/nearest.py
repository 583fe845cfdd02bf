"""Documents of a large corpus that are most like the texts of a task: the selection of curated task-adaptive training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from tempering.backbone import Backbone

Vectors = NDArray[np.float32]
Numbers = NDArray[np.int64]
Embed = Callable[[list[str]], Vectors]
CHUNK = 4096  # documents embedded and compared at a time
BLOCK = 1000  # texts of the task compared at a time
FITTED = 50_000  # documents from which words are weighed and directions found
VOCABULARY = 30_000  # words, as in the paper's embedder
TOKENS = 128  # of a text that the backbone reads
CHARACTERS = 8 * TOKENS  # of a text that are given to its tokenizer: more than that many tokens, nearly always


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Curate:
    """Which documents of a corpus to train on: the ``k`` nearest to each text of the task, together with these texts themselves.

    *Paper*: Gururangan et al. 2020, section 5 (kNN-TAPT, k of 50, 150 and 500; ``by: random`` is their rand-TAPT: as many documents,
    drawn at random). *Formula*: vectors e(x) of length one; for each text of the task the k documents d of largest e(x) . e(d); the union
    of all, each once. *Differs*: they embed by a bag-of-words variational autoencoder (VAMPIRE) trained on the domain; here ``tfidf`` is
    TF-IDF over 30,000 words reduced to ``dimensions`` by a truncated SVD (fitted on up to 50,000 documents and the task's texts), and
    ``backbone`` the mean of the pretrained model's last states over the first 128 tokens. The search is exact: a matrix product in chunks.
    """

    k: Annotated[int, Field(ge=1)] = 50
    by: Literal["tfidf", "backbone", "random"] = "tfidf"
    dimensions: Annotated[int, Field(ge=1)] = 100
    seed: Annotated[int, Field(ge=0)] = 0


def choose(curate: Curate, corpus: Iterable[str], texts: Sequence[str], allowed: Numbers, backbone: Backbone) -> Numbers:
    """Numbers of the documents of ``corpus`` among the ``allowed`` to train on, ascending."""
    k = min(curate.k, len(allowed))
    if curate.by == "random":
        count = min(curate.k * len(texts), len(allowed))
        return np.sort(np.random.default_rng(curate.seed).choice(allowed, count, replace=False))
    embed = _states(backbone) if curate.by == "backbone" else _tfidf(corpus, texts, curate.dimensions, curate.seed)
    wanted = _unit(np.concatenate([embed(part) for part in _chunks(texts)]))
    return np.unique(nearest(wanted, ((numbers, _unit(embed(part))) for numbers, part in _numbered(corpus, allowed)), k))


def nearest(wanted: Vectors, corpus: Iterable[tuple[Numbers, Vectors]], k: int) -> Numbers:
    """[texts, k] numbers of the documents with the largest inner product, the nearest first; of equals the one that comes first.

    ``wanted`` [texts, dim]; ``corpus`` gives chunks of (numbers [documents], vectors [documents, dim]).
    """
    scores = np.full((len(wanted), k), -np.inf, np.float32)
    found = np.full((len(wanted), k), -1, np.int64)
    for numbers, vectors in corpus:
        for start in range(0, len(wanted), BLOCK):
            rows = slice(start, start + BLOCK)
            likeness = wanted[rows] @ vectors.T
            top = _top(likeness, k)
            now = np.concatenate([scores[rows], np.take_along_axis(likeness, top, 1)], 1)
            whose = np.concatenate([found[rows], numbers[top]], 1)
            best = np.argsort(-now, axis=1, kind="stable")[:, :k]
            scores[rows], found[rows] = np.take_along_axis(now, best, 1), np.take_along_axis(whose, best, 1)
    return found


def _top(likeness: Vectors, k: int) -> Numbers:
    """[texts, k] places of the ``k`` largest in each row of ``likeness``, in the order of the row; of equals those that come first."""
    rows, width = likeness.shape
    if width <= k:
        return np.broadcast_to(np.arange(width), (rows, width))
    least = np.partition(likeness, width - k, axis=1)[:, width - k, None]
    taken = likeness >= least
    for row in np.flatnonzero(taken.sum(1) > k):  # the last place has several candidates
        last = np.flatnonzero(likeness[row] == least[row])
        taken[row, last[k - np.count_nonzero(likeness[row] > least[row]) :]] = False
    return np.nonzero(taken)[1].reshape(rows, k)


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while part := list(islice(rest, CHUNK)):
        yield part


def _numbered(corpus: Iterable[str], allowed: Numbers) -> Iterator[tuple[Numbers, list[str]]]:
    """Chunks of the allowed documents with their numbers."""
    known = np.zeros(int(allowed[-1]) + 1 if len(allowed) else 0, np.bool_)
    known[allowed] = True
    start = 0
    for part in _chunks(corpus):
        here = [i for i in range(len(part)) if start + i < len(known) and known[start + i]]
        if here:
            yield np.asarray(here, np.int64) + start, [part[i] for i in here]
        start += len(part)


def _tfidf(corpus: Iterable[str], texts: Sequence[str], dimensions: int, seed: int) -> Embed:
    """TF-IDF with logarithmic counts, reduced by a truncated SVD where there are more words than ``dimensions``."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    seen = [*texts, *islice(corpus, FITTED)]
    words: Any = TfidfVectorizer(max_features=VOCABULARY, sublinear_tf=True, strip_accents="unicode", dtype=np.float32)
    table = words.fit_transform(seen)
    if dimensions >= min(table.shape):
        return lambda part: np.asarray(words.transform(part).toarray(), np.float32)
    svd = TruncatedSVD(dimensions, random_state=seed).fit(table)
    return lambda part: np.asarray(svd.transform(words.transform(part)), np.float32)


def _states(backbone: Backbone) -> Embed:
    """The mean of the last hidden states of a text's tokens, in evaluation mode."""
    import torch

    from tempering.batching import length_batches

    tokenizer = backbone.tokenizer

    @torch.no_grad()
    def embed(part: list[str]) -> Vectors:
        device = next(backbone.parameters()).device
        modes = [(m, m.training) for m in backbone.modules()]
        backbone.eval()
        rows = tokenizer([text[:CHARACTERS] for text in part], truncation=True, max_length=min(TOKENS, backbone.max_length))["input_ids"]
        out = np.zeros((len(part), backbone.hidden_size), np.float32)
        for chosen in length_batches([len(row) for row in rows], 64):
            longest = max(len(rows[i]) for i in chosen)
            ids = torch.full((len(chosen), max(longest, 1)), int(tokenizer.pad_token_id or 0))
            mask = torch.zeros_like(ids)
            for at, i in enumerate(chosen):
                ids[at, : len(rows[i])], mask[at, : len(rows[i])] = torch.tensor(rows[i], dtype=torch.long), 1
            states = backbone.encode({"input_ids": ids.to(device), "attention_mask": mask.to(device)}).last.float().cpu()
            out[chosen] = ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)).numpy()
        for module, mode in modes:
            module.training = mode
        return out

    return embed
