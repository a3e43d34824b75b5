"""Operators through which nothing flows: a decision on record, each group with its reason."""

from __future__ import annotations

from onnxlrp.rules.registry import no_signal

no_signal(
    "reads the shape of its operand, not its values",
    "Shape",
    "Size",
    "EyeLike",
    "RandomNormalLike",
    "RandomUniformLike",
)
no_signal(
    "makes its values from sizes, bounds or attributes alone",
    "Constant",
    "ConstantOfShape",
    "SequenceEmpty",
    "Range",
    "HannWindow",
    "HammingWindow",
    "BlackmanWindow",
    "MelWeightMatrix",
)
no_signal("draws its values at random", "RandomNormal", "RandomUniform", "Bernoulli", "Multinomial")
no_signal(
    "works on the bits of whole numbers", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitCast"
)
no_signal(
    "gives positions, not values",
    "NonZero",
    "NonMaxSuppression",
    "Hardmax",
)
no_signal("works on text", "StringConcat", "StringSplit", "RegexFullMatch")
no_signal("decodes a compressed image", "ImageDecoder")
no_signal("asks whether there is a value, or how many", "OptionalHasElement", "SequenceLength")
no_signal("works on text", "MurmurHash3", domain="com.microsoft")
no_signal("makes its values from bounds or sizes alone", "Range", "RelativePositionBias", domain="com.microsoft")
no_signal("asks whether there is anything that is not finite", "IsAllFinite", domain="com.microsoft")
no_signal(
    "compares token sequences", "BifurcationDetector", "NGramRepeatBlock", "NGramHashMapping", domain="com.microsoft"
)
