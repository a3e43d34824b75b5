"""Judging: the witnesses that `onnxlrp.checks` calls, and the forms of a model that they can be asked about."""
