"""An explanation in words and numbers: the top predictions, a doubt about them, and the document `explain.json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.explain import Explainer
from onnxlrp.explanation import Explanation
from onnxlrp.version import VERSION

SUM_TOLERANCE = 1e-3
"""How far from 1 the sum of float16 probabilities may lie."""

ENOUGH = 5
"""Samples from which on their middle says more about the model than about the photos."""


@dataclass(frozen=True)
class Prediction:
    """One class of a prediction. score : as the model puts it out        probability : None where it has no classes"""

    index: int
    label: str
    score: float
    probability: float | None


def predictions(explainer: Explainer, explanation: Explanation, sample: int = 0, most: int = 5) -> list[Prediction]:
    """The largest classes of one sample, the first largest; empty where the output is no vector per sample."""
    scores = class_scores(explainer, explanation, sample)
    if scores is None:
        return []
    probabilities = as_probabilities(scores)
    order = np.argsort(-scores, kind="stable")[:most]
    return [
        Prediction(int(i), _label(int(i), explanation), float(scores[i]), None if probabilities is None else float(probabilities[i]))
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


def as_probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Probabilities as they are, logits through a softmax; None for values that are not finite."""
    if not np.isfinite(scores).all():
        return None
    if scores.min() >= 0 and abs(scores.sum() - 1) < SUM_TOLERANCE:
        return scores
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())


def doubt(top_probabilities: Sequence[float], classes: int) -> str:
    """A sentence where the top classes get too little to believe in the preprocessing; else "".

    The middle one counts, because single photos are hard. Measured on 100 ImageNet photos: fed as they were trained,
    SqueezeNet's middle one is 0.65 and MobileNetV2's 0.91; fed otherwise 0.20 to 0.26, 0.61 (mean not subtracted: a third
    of the answers still right), 0.41 to 0.43, 0.76 (half still right) and 0.14. Of single photos fed rightly 2 to 5 % lie
    below 0.2, of those fed wrongly up to 63 %. Accuracy suffers before confidence does: no warning is no proof.
    """
    if classes < 3 or not top_probabilities:
        return ""
    middle, least = float(np.median(top_probabilities)), least_believable(classes, len(top_probabilities))
    if middle >= least:
        return ""
    whose = f"The top class of {classes} gets" if len(top_probabilities) == 1 else f"The top classes of {classes} get, in the middle,"
    return (
        f"{whose} only {middle:.1%} (below {least:.0%}): a trained classifier that is fed as it was trained is surer than "
        "that. Is the preprocessing right? Try --preprocessing imagenet, caffe-bgr, 0-1, -1-1 or 0-255."
    )


def least_believable(classes: int, samples: int) -> float:
    """The probability below which top classes are doubted: 0.3, of few samples 0.2, and 1.5 times chance at least."""
    return max(0.3 if samples >= ENOUGH else 0.2, 1.5 / classes)


def conservation_of(explanation: Explanation, sample: int) -> dict[str, float] | None:
    """Sums of one sample; None for methods that conserve nothing."""
    kept = explanation.conservation
    if kept is None or kept.seeded.ndim > 1:
        return None
    return {"seeded": float(kept.seeded[sample]), "arrived": float(kept.arrived[sample]), "ratio": float(kept.ratio[sample])}


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


def prediction_as_dict(prediction: Prediction) -> dict[str, Any]:
    return asdict(prediction)


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


__all__ = ["VERSION", "Prediction", "as_json", "as_probabilities", "least_believable", "predictions"]
