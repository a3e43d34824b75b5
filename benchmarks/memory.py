"""How much memory it takes to read a model, compile its explainer and save it, beside the size of the file.

python benchmarks/memory.py --model vgg16
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

from models import MODELS, model_file

import onnxlrp


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="vgg16")
    parser.add_argument("--preset", default="epsilon-plus")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "onnxlrp-benchmarks")
    choices = parser.parse_args()
    path = model_file(choices.model, choices.folder)
    size = path.stat().st_size / 2**20
    before = peak_megabytes()
    explainer = onnxlrp.Explainer(path, preset=choices.preset)
    explainer.save(choices.folder / "explainer.onnx")
    extra = peak_megabytes() - before
    written = (choices.folder / "explainer.onnx").stat().st_size / 2**20
    print(f"{choices.model}: file {size:.0f} MB, explainer {written:.0f} MB")
    print(f"extra memory {extra:.0f} MB = {extra / size:.2f} × file")


if __name__ == "__main__":
    main()
