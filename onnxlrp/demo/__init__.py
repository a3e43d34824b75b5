"""The sample model behind `onnxlrp demo`: a shape classifier that learned to read a watermark, and four images."""
