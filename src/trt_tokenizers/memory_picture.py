"""A plan of memory, drawn: a bar of text, a table, a bar in SVG."""

from __future__ import annotations

from xml.sax.saxutils import escape

from trt_tokenizers.memory import GIB, Plan, advice, fits

_LETTERS = {"weights": "W", "activations": "A", "CUDA": "C", "KV cache": "K", "free": "."}
_COLOURS = {
    "weights": "#4269d0", "activations": "#efb118", "CUDA": "#9c6b4e", "KV cache": "#3ca951",
    "free": "#d9d9d9",
}  # fmt: skip
_WIDTH = 64


def text(made: Plan) -> str:
    """Bar and table, for a terminal; with what to change if it does not fit."""
    model = made.model
    whole = max(made.gpu, made.used)
    bar, at = "", 0
    for name, size in made.parts:
        at += size
        bar += _LETTERS[name] * (round(at / whole * _WIDTH) - len(bar))
    lines = [
        f"{model.folder}: tensor parallel {model.tensor_parallel} x pipeline parallel "
        f"{model.pipeline_parallel}, each GPU of {_gib(made.gpu)}:",
        f"[{bar}]",
    ]
    lines += [f"  {_LETTERS[name]}  {name:<12}{_gib(size):>11}" for name, size in made.parts]
    lines += [
        f"  used {_gib(made.used)}; activations and CUDA are estimates, for "
        f"{model.max_num_tokens} tokens an iteration",
        f"  KV cache: {made.kv_bytes_per_token} bytes a token, {made.tokens} tokens, "
        f"{made.sequences} sequences of {model.max_seq_len}",
    ]
    if not fits(made):
        lines.append(
            f"does not fit: {_gib(-made.free)} too much"
            if made.free < 0
            else f"does not fit: not one sequence of {model.max_seq_len} tokens"
        )
        lines += [f"  would fit: {line}" for line in advice(made)]
    return "\n".join(lines)


def svg(made: Plan) -> str:
    """The same bar, 640 × 96."""
    whole = max(made.gpu, made.used)
    parts, at = [], 0.0
    for name, size in made.parts:
        width = size / whole * 620
        parts.append(
            f'<rect x="{10 + at:.1f}" y="30" width="{width:.1f}" height="28" '
            f'fill="{_COLOURS[name]}"><title>{name} {_gib(size)}</title></rect>'
        )
        at += width
    for number, (name, size) in enumerate(made.parts):
        x = 10 + number * 124
        parts.append(
            f'<rect x="{x}" y="72" width="10" height="10" fill="{_COLOURS[name]}"/>'
            f'<text x="{x + 14}" y="81">{name} {_gib(size)}</text>'
        )
    title = escape(f"{made.model.folder.name}: one GPU of {_gib(made.gpu)}")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 96" font-family="sans-serif" '
        f'font-size="11"><text x="10" y="20" font-size="13">{title}</text>{"".join(parts)}</svg>\n'
    )


def as_dict(made: Plan) -> dict[str, float | int | bool]:
    """For JSON; sizes in bytes."""
    return {
        **{name.replace(" ", "_").lower(): size for name, size in made.parts},
        "gpu": made.gpu,
        "used": made.used,
        "fits": fits(made),
        "kv_bytes_per_token": made.kv_bytes_per_token,
        "tokens": made.tokens,
        "sequences": made.sequences,
        "tensor_parallel": made.model.tensor_parallel,
        "pipeline_parallel": made.model.pipeline_parallel,
    }


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
