"""LlamaIndex's NvidiaTriton."""

from llama_index.llms.nvidia_triton import NvidiaTriton
from report import Report, run


def program(report: Report) -> None:
    llm = NvidiaTriton(server_url=report.grpc, tokens=16)
    report.ask("complete", lambda: llm.complete(report.prompt).text)
    report.ask(
        "stream_complete", lambda: "".join(c.delta for c in llm.stream_complete(report.prompt))
    )


run(program, "llama-index-llms-nvidia-triton")
