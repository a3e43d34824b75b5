"""Make `actions_fisher`: motion vectors of generated clips → Fisher vector → linear SVM, in one ONNX graph.

    python sample_models/make_actions_fisher.py CLIPS

CLIPS is a folder for the training and test clips (800 and 200, 10 MB); they are made where they are missing. Also
writes `actions_clips`: one test clip of each action, with what is true of it in truth.toml. 5 minutes on 2 cores.

Needs: pip install '.[video]' scikit-learn
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import sklearn
from _clips import ACTIONS, FRAMES, HEIGHT, TEST, TRAIN, WIDTH, Clip, clips_in
from _common import HERE, accuracy_of, licence_line, run_model, write_sidecar
from _fisher import Fisher, fisher_graph, fisher_vectors
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture
from sklearn.svm import LinearSVC

from onnxlrp.data.video import motion_of

SCRIPT = "sample_models/make_actions_fisher.py"
COMPONENTS, SAMPLED, SEED = 16, 20_000, 0
MODEL, CLIPS = HERE / "actions_fisher" / "model.onnx", HERE / "actions_clips"


def described(found: Iterable[tuple[Path, Clip]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Descriptors (clip, window, row, column, number) and labels."""
    pairs = [(motion_of(path)[0], clip.label) for path, clip in found]
    return np.stack([x for x, _ in pairs]), np.array([label for _, label in pairs])


def fit(x: NDArray[np.float32], labels: NDArray[np.int64]) -> Fisher:
    """Mixture by expectation maximisation on a sample of the descriptors, then one linear SVM per class."""
    rows = x.reshape(-1, x.shape[-1])
    rows = rows[np.abs(rows).max(axis=1) > 0]
    chosen = np.random.default_rng(SEED).permutation(len(rows))[:SAMPLED]
    mixture: Any = GaussianMixture(COMPONENTS, covariance_type="diag", reg_covar=1e-2, random_state=SEED, max_iter=200)
    mixture.fit(rows[chosen].astype(np.float64))
    vectors = np.stack([fisher_vectors(one.reshape(-1, x.shape[-1]), mixture) for one in x])
    svm = LinearSVC(C=1.0, random_state=SEED).fit(vectors, labels)
    deviations = np.sqrt(mixture.covariances_)
    return Fisher(mixture.weights_, mixture.means_, deviations, svm.coef_, svm.intercept_)


def write_clips(folder: Path) -> None:
    """The first test clip of each action, and the truth about it."""
    CLIPS.mkdir(exist_ok=True)
    lines = ["# Generated clips: span = first and last + 1 frame of the action; box = top, left, bottom, right."]
    for path, clip in clips_in(folder, TEST[:1]):
        name = ACTIONS[clip.label]
        shutil.copyfile(path, CLIPS / f"{name}.mp4")
        lines += ["", f"[{name}]", f"span = {list(clip.span)}", f"box = {list(clip.box)}"]
    (CLIPS / "truth.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(folder: Path) -> None:
    train, train_labels = described(clips_in(folder, TRAIN))
    MODEL.parent.mkdir(exist_ok=True)
    onnx.save(fisher_graph(fit(train, train_labels)), MODEL)
    accuracies = {}
    for codec in ("h264", "mpeg4"):
        test, labels = described(clips_in(folder, TEST, codec))
        accuracies[codec] = accuracy_of(run_model(MODEL, test, "scores"), labels)
    write_clips(folder)
    write_sidecar(
        MODEL,
        {"kind": "video", "name": "actions_fisher", "layout": "NTHWF", "preset": "fisher-vector", "labels": [*ACTIONS]},
        {
            "licence": licence_line(SCRIPT),
            "data": f"{len(train)} generated clips in H.264, {FRAMES} frames of {WIDTH}x{HEIGHT}: _clips.py",
            "accuracy": accuracies["h264"],
            "accuracy_mpeg4": accuracies["mpeg4"],
            "test_samples": len(labels),
            "script": SCRIPT,
            "exporter": f"onnx {onnx.__version__} (onnx.helper), scikit-learn {sklearn.__version__}",
        },
    )
    print(f"{MODEL.relative_to(HERE.parent)}: {MODEL.stat().st_size} bytes, accuracy {accuracies}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
