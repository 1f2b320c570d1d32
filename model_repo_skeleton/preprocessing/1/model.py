from trt_tokenizers.backend import PreprocessingModel as TritonPythonModel  # noqa: F401
