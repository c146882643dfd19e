"""The README's first lines, to run: ResNet-50 to half of its latency on this machine."""

import torch
import torchvision

import latprune as lp

model = torchvision.models.resnet50()  # your trained network
example = torch.randn(1, 3, 224, 224)
result = lp.prune(model, example, "50%")  # with loader= it scores on data, with recipe= it tunes
print(result.report)
result.save("resnet50-half.safetensors")  # lp.load(path, resnet50()) brings it back
lp.export_onnx(result.model, example, "resnet50-half.onnx")
