from trt_tokenizers.backend import PostprocessingModel as TritonPythonModel  # noqa: F401
