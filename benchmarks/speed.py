"""How long relevance takes, as a multiple of the forward pass: both in one interleaved run, medians of ratios.

python benchmarks/speed.py --model resnet50 --preset epsilon --batch 1 --batch 8
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from models import MODELS, model_file

import onnxlrp
from onnxlrp.session import Session


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(model: Path, preset: str, batch: int, rounds: int, provider: str) -> tuple[float, float, float]:
    """(median forward seconds, median relevance seconds, median ratio of neighbours)."""
    x = {"image": np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)}
    explainer = onnxlrp.Explainer(model, preset=preset, providers=provider, batch_size=batch)
    joint = Session(explainer.compiled.model, provider)
    forward = Session(explainer.model.copy(), provider)
    for session in (forward, joint):
        session.run(x)
    pairs = [(timed(lambda: forward.run(x)), timed(lambda: joint.run(x))) for _ in range(rounds)]
    ratios = [second / first for first, second in pairs]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs), statistics.median(ratios)


def compile_seconds(model: Path, preset: str) -> tuple[float, float]:
    """(read to joint model, its session) in seconds."""
    started = time.perf_counter()
    explainer = onnxlrp.Explainer(model, preset=preset)
    compiled = explainer.compiled
    middle = time.perf_counter()
    Session(compiled.model, "cpu")
    return middle - started, time.perf_counter() - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="resnet50")
    parser.add_argument("--preset", action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "onnxlrp-benchmarks")
    choices = parser.parse_args()
    path = model_file(choices.model, choices.folder)
    writing, loading = compile_seconds(path, "epsilon")
    print(f"{choices.model}: compiled in {writing:.2f} s, session in {loading:.2f} s")
    for preset in choices.preset or ["epsilon"]:
        for batch in choices.batch or [1, 8]:
            forward, joint, ratio = compare(path, preset, batch, choices.rounds, choices.provider)
            times = f"forward {forward * 1e3:8.1f} ms  joint {joint * 1e3:8.1f} ms"
            print(f"  {preset:<22} batch {batch:<3} {times}  ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
