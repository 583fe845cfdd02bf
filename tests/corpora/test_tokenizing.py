"""Token files: what they hold, that several processes and a later run give the same, and that half of one is never used."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempering.corpora import plain, tokenizing
from tempering.corpora.sources import Source
from tempering.corpora.tokenizing import describe, open_tokens, tokens_of
from tempering.corpora.tokens import Tokens, read
from tempering.corpora.worker import text_hash
from tempering.errors import DataError
from tests.tiny import NEGATIVE, POSITIVE, WORDS, tiny_tokenizer

TOKENIZER = tiny_tokenizer("bert")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is large enough for a file, and for several chunks."""
    monkeypatch.setattr(tokenizing, "SMALL", 0)
    monkeypatch.setattr(tokenizing, "CHUNK", 500)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    rng = random.Random(0)
    lines = [" ".join(rng.choices((*WORDS, *POSITIVE, *NEGATIVE, "unknown"), k=rng.randint(1, 60))) for _ in range(120)]
    (tmp_path / "c.txt").write_text("\n".join(lines))
    return Source(str(tmp_path / "c.txt"))


def same(a: Tokens, b: Tokens) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("ids", "ends", "hashes", "starts")) and a.key == b.key


@pytest.mark.parametrize("words", [False, True])
def test_documents_are_what_the_tokenizer_makes_of_them(source: Source, words: bool) -> None:
    tokens, texts = tokens_of(source, TOKENIZER, words), list(source)
    assert len(tokens) == len(texts) == 120 and tokens.ids.dtype == np.uint16
    for document, text in enumerate(texts):
        start, stop = tokens.span(document)
        assert tokens.ids[start:stop].tolist() == TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert tokens.hashes.tolist() == [text_hash(text) for text in texts]
    assert len(tokens.starts) == (len(tokens.ids) if words else 0)


def test_word_starts() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordPiece({"[UNK]": 0, "ab": 1, "##cd": 2, "x": 3}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    tokens = tokens_of(["abcd x", "x abcdcd ab"], tokenizer, words=True)
    assert tokens.ids.tolist() == [1, 2, 3, 3, 1, 2, 2, 1] and tokens.starts.tolist() == [1, 0, 1, 1, 1, 0, 0, 1]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("words", [False, True])
def test_processes_make_no_difference_and_a_later_run_reads_the_file(
    source: Source, words: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    one = open_tokens(source, TOKENIZER, words, tmp_path / "one", told.append, processes=1)
    two = open_tokens(source, TOKENIZER, words, tmp_path / "two", processes=2)
    assert same(one, two) and isinstance(one.ids, np.memmap) and "120 documents" in told[-1]
    assert same(one, tokens_of(source, TOKENIZER, words, key=one.key))
    monkeypatch.setattr(tokenizing, "_fill", None)  # nothing may be tokenized any more
    assert same(one, open_tokens(source, TOKENIZER, words, tmp_path / "one"))
    assert same(one, open_tokens(Source(_copied(source)), TOKENIZER, words, tmp_path / "one"))


def _copied(source: Source) -> str:
    path = Path(source.path).with_name("copy.txt")
    path.write_bytes(Path(source.path).read_bytes())
    return str(path)


@pytest.mark.usefixtures("small")
def test_memory_does_not_grow_with_the_text(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "BLOCK", 4096)
    monkeypatch.setattr(tokenizing, "_key", lambda given, *_: Path(given.path).stem)  # the content is hashed in blocks of four megabytes
    text, peaks = Path(source.path).read_text(), []
    for times in (1, 2, 20):  # the first one imports what is imported once
        path = tmp_path / f"{times}.txt"
        path.write_text("\n".join(f"{text} {i}" for i in range(times)))
        tracemalloc.start()
        tokens = open_tokens(Source(str(path)), TOKENIZER, False, tmp_path / "cache", processes=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert isinstance(tokens.ids, np.memmap) and len(tokens) >= 120 * times
    assert peaks[2] < 1.5 * peaks[1] and path.stat().st_size > peaks[2]


@pytest.mark.usefixtures("small")
def test_other_text_tokenizer_or_words_have_a_file_of_their_own(source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    keys = [open_tokens(source, TOKENIZER, words, folder, processes=1).key for words in (False, True)]
    keys.append(open_tokens(source, tiny_tokenizer("roberta"), False, folder, processes=1).key)
    keys.append(open_tokens(Source(source.path, "file"), TOKENIZER, False, folder).key)
    Path(source.path).write_text("another text")
    keys.append(open_tokens(Source(source.path), TOKENIZER, False, folder).key)
    assert len(set(keys)) == 5 == len([p for p in folder.iterdir() if p.is_dir()])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", ["about.json", "ids.bin", "ends.bin"])
def test_half_a_file_is_made_again(source: Source, damage: str, tmp_path: Path) -> None:
    whole = open_tokens(source, TOKENIZER, False, tmp_path, processes=1)
    expected, broken = whole.ids.tolist(), tmp_path / whole.key / damage
    broken.write_bytes(broken.read_bytes()[:7])
    (tmp_path / f".{whole.key}.1234").mkdir()  # what a killed run left
    assert read(tmp_path / whole.key) is None
    assert open_tokens(source, TOKENIZER, False, tmp_path, processes=1).ids.tolist() == expected
    assert not list(tmp_path.glob(".*.1234"))


@pytest.mark.usefixtures("small")
def test_a_bad_file_leaves_nothing_behind(source: Source, tmp_path: Path) -> None:
    with Path(source.path).open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(Exception, match="NUL at byte"):
        open_tokens(source, TOKENIZER, False, tmp_path / "files", processes=2)
    assert [p.suffix for p in (tmp_path / "files").iterdir()] in ([".lock"], [])


@pytest.mark.usefixtures("small")
def test_a_folder_that_cannot_be_written_to_is_named(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "taken"))
    with pytest.raises(DataError, match=r"taken/corpora: expected a folder to keep the tokens of .*c\.txt in.*TEMPERING_CACHE"):
        open_tokens(source, TOKENIZER, processes=1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("100 requested and 10 written")

    monkeypatch.setattr(tokenizing, "write_about", full)
    with pytest.raises(DataError, match=r"kept: expected a folder .* \(100 requested and 10 written\); free space there"):
        open_tokens(source, TOKENIZER, folder=tmp_path / "kept", processes=1)
    assert [p.suffix for p in (tmp_path / "kept").iterdir()] in ([], [".lock"])


def test_a_small_text_stays_in_memory(source: Source, tmp_path: Path) -> None:
    tokens = open_tokens(source, TOKENIZER, False, tmp_path / "files")
    assert len(tokens) == 120 and not (tmp_path / "files").exists()


def test_truncation_and_padding_of_the_tokenizer_do_not_matter(source: Source) -> None:
    tokenizer = tiny_tokenizer("bert")
    before = describe(tokenizer)
    tokenizer(list(source)[:4], truncation=True, padding=True, max_length=8)
    assert describe(tokenizer) == before and max(np.diff(tokens_of(source, tokenizer).ends)) > 8


def test_a_tokenizer_written_in_python(source: Source) -> None:
    class Slow:
        is_fast = False

        def __len__(self) -> int:
            return 70_000

        def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[len(word) for word in text.split()] for text in texts]}

    tokens = tokens_of(source, Slow())
    assert tokens.ids.dtype == np.uint32
    assert tokens.ids[: tokens.ends[0]].tolist() == [len(word) for word in next(iter(source)).split()]


def test_taken_and_joined(source: Source) -> None:
    tokens = tokens_of(source, TOKENIZER, True)
    part = tokens.taken([5, 2])
    both = Tokens.joined([part, tokens])
    for mine, theirs in ((0, 5), (1, 2), (2, 0), (121, 119)):
        (a, b), (c, d) = both.span(mine), tokens.span(theirs)
        assert np.array_equal(both.ids[a:b], tokens.ids[c:d]) and np.array_equal(both.starts[a:b], tokens.starts[c:d])
        assert both.hashes[mine] == tokens.hashes[theirs]
    assert len(tokens.taken([])) == 0
