"""The pipelines of diffusers' ONNX classes and of optimum's, under their names and with their arguments, so that a
program that uses them changes one line:

    from diffrt.compat import OnnxStableDiffusionPipeline  # was: from diffusers import ...

They run the folders that those wrote, and bundles. What is new has `diffrt.load`.
"""

from diffrt.compat.base import Images as Images
from diffrt.compat.onnx_pipelines import OnnxStableDiffusionImg2ImgPipeline as OnnxStableDiffusionImg2ImgPipeline
from diffrt.compat.onnx_pipelines import OnnxStableDiffusionInpaintPipeline as OnnxStableDiffusionInpaintPipeline
from diffrt.compat.onnx_pipelines import OnnxStableDiffusionPipeline as OnnxStableDiffusionPipeline
from diffrt.compat.ort_pipelines import ORTStableDiffusionImg2ImgPipeline as ORTStableDiffusionImg2ImgPipeline
from diffrt.compat.ort_pipelines import ORTStableDiffusionInpaintPipeline as ORTStableDiffusionInpaintPipeline
from diffrt.compat.ort_pipelines import ORTStableDiffusionPipeline as ORTStableDiffusionPipeline
from diffrt.compat.ort_pipelines import ORTStableDiffusionXLPipeline as ORTStableDiffusionXLPipeline
