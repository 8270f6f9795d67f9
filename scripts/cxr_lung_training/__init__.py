"""Training of the `cxr-lung` model: frontal chest radiograph to right and left lung masks.

Development only: nothing in the appliance imports this package. It needs torch, numpy, scipy and Pillow, and
onnx with onnxruntime for the export.
"""
