"""LiteLLM's provider `triton`, on the generate endpoints."""

import litellm
from report import Report, run

litellm.drop_params = True


def program(report: Report) -> None:
    request = {
        "model": "triton/ensemble",
        "messages": [{"role": "user", "content": report.prompt}],
        "api_base": f"http://{report.http}/v2/models/ensemble/generate",
        "max_tokens": 12,
    }
    report.ask("completion", lambda: litellm.completion(**request).choices[0].message.content)
    if report.decoupled:
        report.ask("completion, stream=True", lambda: _streamed(request))


def _streamed(request: dict) -> str:
    chunks = litellm.completion(**request, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


run(program, "litellm")
