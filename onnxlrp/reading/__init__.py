"""Reading: from a file of any exporter and opset to a graph that can be prepared; `onnxlrp.model` goes through it."""
