"""LangChain's TritonTensorRTLLM."""

from langchain_nvidia_trt import TritonTensorRTLLM
from report import Report, run


def program(report: Report) -> None:
    llm = TritonTensorRTLLM(server_url=report.grpc, model_name="ensemble", tokens=12)
    report.ask("invoke", lambda: llm.invoke(report.prompt))
    report.ask("stream", lambda: "".join(llm.stream(report.prompt)))


run(program, "langchain-nvidia-trt")
