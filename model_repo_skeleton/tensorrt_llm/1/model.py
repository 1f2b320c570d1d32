from trt_tokenizers.backend import EngineModel as TritonPythonModel  # noqa: F401
