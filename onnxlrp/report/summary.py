"""An explanation in words and numbers: the top predictions, a doubt about them, and the document `explain.json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.meaning import Meaning
from onnxlrp.explain import Explainer
from onnxlrp.explanation import Explanation

SUM_TOLERANCE = 1e-3
"""How far from 1 the sum of float16 probabilities may lie, and below 0 one of them: 1 − p of a forest is −1e-7."""

ENOUGH = 5
"""Samples from which on their middle says more about the model than about the photos."""


@dataclass(frozen=True)
class Prediction:
    """One class of a prediction. score : as the model puts it out        probability : None where it has no classes"""

    index: int
    label: str
    score: float
    probability: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def predictions(explainer: Explainer, explanation: Explanation, sample: int = 0, most: int = 5) -> list[Prediction]:
    """The largest classes of one sample, the first largest; empty where the output is no vector per sample."""
    scores = class_scores(explainer, explanation, sample)
    if scores is None:
        return []
    probabilities = as_probabilities(scores)
    order = np.argsort(-scores, kind="stable")[:most]
    return [
        Prediction(
            int(i),
            _label(int(i), explanation),
            float(scores[i]),
            None if probabilities is None else float(probabilities[i]),
        )
        for i in order
    ]


def class_scores(explainer: Explainer, explanation: Explanation, sample: int) -> NDArray[np.float64] | None:
    """One number per class, as the model puts them out; None where the explained output is no such vector."""
    output = explanation.outputs.get(explainer.output.asked.name or "")
    if output is None or output.dtype.kind != "f":
        return None
    row = output[sample] if explainer.output.batched and output.ndim else output
    if row.ndim == 0 or row.shape[0] < 2 or row.size != row.shape[0]:
        return None
    return np.asarray(row, np.float64).reshape(-1)


def explains_probability(explainer: Explainer, explanation: Explanation, sample: int) -> bool:
    """Whether probabilities themselves are explained, unasked, because no logits were found behind them."""
    output, scores = explainer.output, class_scores(explainer, explanation, sample)
    if scores is None or output.tensor is not output.asked or output.because == "as asked":
        return False
    return bool(np.isfinite(scores).all() and _are_probabilities(scores))


def as_probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Probabilities as they are, logits through a softmax; None for values that are not finite."""
    if not np.isfinite(scores).all():
        return None
    if _are_probabilities(scores):
        return np.clip(scores, 0.0, 1.0)
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())


def _are_probabilities(scores: NDArray[np.float64]) -> bool:
    return bool(scores.min() >= -SUM_TOLERANCE and abs(scores.sum() - 1) < SUM_TOLERANCE)


_PIXELS = "Try --preprocessing imagenet, caffe-bgr, 0-1, -1-1 or 0-255."
_REMEDIES = {"image": _PIXELS, "video": _PIXELS, "text": "Is the tokenizer the one that the model was trained with?"}
_FEED_AS_TRAINED = "Compare scale, units and order of the numbers with those of its training."


def doubt(top_probabilities: Sequence[float], classes: int, kind: str | None) -> str:
    """A sentence where the top classes get too little to believe in the preprocessing; else "".

    The median counts, because single photos are hard. Measured on 100 ImageNet photos, median (top-1 accuracy):

        SqueezeNet    caffe-bgr (right) 0.65 (61 %)    imagenet, 0-1, -1-1 0.20 to 0.26 (0 %)    0-255 0.61 (32 %)
        MobileNetV2   imagenet (right) 0.91 (79 %)     0-255 0.14 (0 %)    caffe-bgr 0.43 (6 %)    0-1 0.41 (40 %)
                                                       -1-1 0.76 (69 %)

    Of single photos fed rightly 2 to 5 % lie below 0.2, of those fed wrongly up to 63 %; hardly one lies below 0.05.
    No warning is no proof.
    """
    if classes < 3 or not top_probabilities:
        return ""
    middle, least = float(np.median(top_probabilities)), least_believable(classes, len(top_probabilities))
    if middle >= least:
        return ""
    single = len(top_probabilities) == 1
    whose = f"The top class of {classes} gets" if single else f"Half the top classes of {classes} get"
    return (
        f"{whose} {middle:.1%} or less; a trained classifier that is fed as it was trained is surer than that (above "
        f"{least:.0%}). Is the preprocessing right? {_REMEDIES.get(kind or '', _FEED_AS_TRAINED)}"
    )


def least_believable(classes: int, samples: int) -> float:
    """The probability below which top classes are doubted: 0.3, of few samples 0.2, and 1.5 times chance at least."""
    return max(0.3 if samples >= ENOUGH else 0.2, 1.5 / classes)


def class_count(explainer: Explainer) -> int:
    """Classes of the explained output; 0 where the file does not say."""
    shape = explainer.output.asked.shape
    axis = 1 if explainer.output.batched else 0
    size = shape[axis] if shape is not None and len(shape) > axis else 0
    return size if isinstance(size, int) else 0


def miscounted(explainer: Explainer) -> str:
    """A sentence where there are not as many labels as classes; else "", and for maps and detectors."""
    classes, labels, shape = class_count(explainer), explainer.labels, explainer.output.asked.shape
    apart = shape is None or any(size != 1 for size in list(shape)[2 if explainer.output.batched else 1 :])
    if not labels or not classes or apart or len(labels) == classes:
        return ""
    return f"There are {len(labels)} labels for {classes} classes, so names may be wrong. Is the list of labels right?"


def conservation_of(explanation: Explanation, sample: int) -> dict[str, Any] | None:
    """Sums of one sample; None for methods that conserve nothing."""
    kept = explanation.conservation
    if kept is None or kept.seeded.ndim > 1:
        return None
    return {
        "seeded": float(kept.seeded[sample]),
        "arrived": float(kept.arrived[sample]),
        "magnitude": float(kept.magnitude[sample]),
        "ratio": float(kept.ratio[sample]),
        "cancels": bool(kept.cancels[sample]),
    }


def shares_of(explanation: Explanation, sample: int) -> dict[str, float] | None:
    """Of Σ|R|, what each explained tensor got; None of a single one, and where every class is explained."""
    if len(explanation.relevance) < 2 or explanation.score.ndim > 1:
        return None
    count = len(explanation.score)
    rows = {name: a[sample] if a.ndim and len(a) == count else a for name, a in explanation.relevance.items()}
    sizes = {name: float(np.abs(row).sum(dtype=np.float64)) for name, row in rows.items()}
    return {name: size / (sum(sizes.values()) or 1.0) for name, size in sizes.items()}


def target_of(explanation: Explanation, sample: int) -> Any:
    """The target of one sample as JSON can say it."""
    target = explanation.target[sample] if isinstance(explanation.target, list) else explanation.target
    return target if isinstance(target, int | str | list) else str(target) if target is None else list(target)


def result_as_dict(explanation: Explanation, sample: int) -> dict[str, Any]:
    """One sample under one method."""
    per_class = explanation.score.ndim > 1
    score = explanation.score[:, sample].tolist() if per_class else float(explanation.score[sample])
    return {
        "method": explanation.method,
        "preset": explanation.preset,
        "target": target_of(explanation, sample),
        "label": explanation.label(sample),
        "score": score,
        "conservation": conservation_of(explanation, sample),
        "shares": shares_of(explanation, sample),
        "seconds": round(explanation.seconds / max(len(explanation), 1), 6),
        "provider": explanation.providers[0] if explanation.providers else None,
    }


def model_as_dict(explainer: Explainer) -> dict[str, Any]:
    """Which model, to the bit."""
    model = explainer.model
    return {
        "name": model.name,
        "path": str(model.path) if model.path is not None else None,
        "sha256": model.sha256,
        "exporter": model.exporter,
        "opset": model.original_opset,
        "output": explainer.output.tensor.name,
        "output_because": explainer.output.because,
        "explained": explainer.explained,
    }


def preprocessing_as_dict(meaning: Meaning) -> dict[str, Any]:
    """What was taken for the meaning of the input's numbers, and how far it was guessed."""
    sidecar = meaning.sidecar
    keys = ("kind", "layout", "size", "channels", "preprocessing", "scale", "mean", "std", "resize")
    said = {key: getattr(sidecar, key) for key in keys if getattr(sidecar, key) is not None}
    return {"sidecar": str(sidecar.source) if sidecar.source else None, "guessed": list(meaning.guessed), **said}


def spoken(found: Sequence[Prediction]) -> str:
    """`star 99.8 %, circle 0.1 %`."""
    return ", ".join(
        f"{p.label} {p.score:.3g}" if p.probability is None else f"{p.label} {p.probability:.1%}" for p in found
    )


def as_json(value: Any) -> Any:
    """The value with what JSON lacks (NaN, infinity) as null."""
    if isinstance(value, dict):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _label(index: int, explanation: Explanation) -> str:
    labels = explanation.labels
    return labels[index] if labels is not None and index < len(labels) else str(index)
