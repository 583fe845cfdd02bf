"""One run of the ``setfit`` package with its defaults: a job as JSON on standard input, accuracy and seconds as JSON on the last line.

Runs in an environment of its own, which has setfit and not tempering; `experiments/setfit.py` starts it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]  # our own setfit.py lies here, and would hide the package


def body(job: dict[str, Any]) -> Any:
    """The model with the mean over its tokens as sentence vector, of length one if asked for: what the other side reads."""
    from sentence_transformers import SentenceTransformer, models

    reader = models.Transformer(job["model"])
    parts = [reader, models.Pooling(reader.get_word_embedding_dimension(), pooling_mode="mean")]
    return SentenceTransformer(modules=[*parts, models.Normalize()] if job["normalize"] else parts, device="cpu")


def main() -> None:
    """Train, predict, tell."""
    job = json.load(sys.stdin)
    import torch
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    torch.set_num_threads(job["threads"])
    texts, labels = zip(*job["train"], strict=True)
    rows = Dataset.from_dict({"text": list(texts), "label": list(labels)})
    model = SetFitModel(model_body=body(job), model_head=LogisticRegression())
    arguments = TrainingArguments(
        output_dir=job["output"], seed=job["seed"], report_to="none", show_progress_bar=False, save_strategy="no", logging_strategy="no"
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    asked, gold = zip(*job["test"], strict=True)
    said = [str(label) for label in model.predict(list(asked))]
    print(json.dumps({"accuracy": sum(a == b for a, b in zip(said, gold, strict=True)) / len(gold), "seconds": seconds}))


if __name__ == "__main__":
    main()
