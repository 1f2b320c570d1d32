"""A memory estimate as text, as an SVG picture and as values for JSON."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.memory.planner import GIB, MemoryEstimate, advice, fits

#: Part -> its letter in the text bar and its colour in the picture.
_STYLES = {
    "weights": ("W", "#4269d0"),
    "activations": ("A", "#efb118"),
    "CUDA": ("C", "#9c6b4e"),
    "KV cache": ("K", "#3ca951"),
    "free": (".", "#d9d9d9"),
}
_WIDTH = 64  # characters of the text bar


def text(plan: MemoryEstimate) -> str:
    """A bar and a table for a terminal, with changes that help if the model does not fit."""
    model = plan.model
    whole = max(plan.gpu, plan.used)
    bar, end = "", 0
    for name, size in plan.parts:
        end += size
        bar += _STYLES[name][0] * (round(end / whole * _WIDTH) - len(bar))
    lines = [
        f"{model.folder}: tensor parallel {model.tensor_parallel} x pipeline parallel "
        f"{model.pipeline_parallel}, each GPU of {_gib(plan.gpu)}:",
        f"[{bar}]",
    ]
    lines += [f"  {_STYLES[name][0]}  {name:<12}{_gib(size):>11}" for name, size in plan.parts]
    lines += [
        f"  used {_gib(plan.used)}; activations and CUDA are estimates, for "
        f"{model.max_num_tokens} tokens per iteration",
        f"  KV cache: {plan.kv_bytes_per_token} bytes per token, {plan.tokens} tokens, "
        f"{plan.sequences} sequences of {model.max_seq_len}",
    ]
    lines += [
        f"  {each.layers} layers keep the last {each.window} tokens only"
        for each in model.kv_layers
        if 0 < each.window < model.max_seq_len
    ]
    if not fits(plan):
        lines.append(
            f"does not fit: {_gib(-plan.free)} too much"
            if plan.free < 0
            else f"does not fit: the KV cache is too small for a sequence of {model.max_seq_len} "
            "tokens"
        )
        lines += [f"  would fit: {line}" for line in advice(plan)]
    return "\n".join(lines)


def draw(plan: MemoryEstimate, file: Path) -> None:
    """Draw a title, a bar and a legend, 640 × 96 units, into an SVG file.

    Raises:
        SettingsError: the name of *file* does not end in .svg.
    """
    if file.suffix != ".svg":
        raise SettingsError(f"--picture {file}: only SVG is supported; give a name ending in .svg")
    title = f"{plan.model.folder.name}: one GPU of {_gib(plan.gpu)}"
    shapes = [f'<text x="10" y="20" font-size="13">{escape(title)}</text>']
    whole, start = max(plan.gpu, plan.used), 10.0
    for number, (name, size) in enumerate(plan.parts):
        width, x, colour = size / whole * 620, 10 + number * 124, _STYLES[name][1]
        shapes += [
            f'<rect x="{start:.1f}" y="30" width="{width:.1f}" height="28" fill="{colour}"/>',
            f'<rect x="{x}" y="72" width="10" height="10" fill="{colour}"/>',
            f'<text x="{x + 14}" y="81" font-size="11">{name} {_gib(size)}</text>',
        ]
        start += width
    file.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 96" '
        f'font-family="sans-serif">{"".join(shapes)}</svg>\n',
        encoding="utf-8",
    )


def as_dict(plan: MemoryEstimate) -> dict[str, float | int | bool]:
    """The estimate for JSON; sizes in bytes."""
    return {
        **{name.replace(" ", "_").lower(): size for name, size in plan.parts},
        "gpu": plan.gpu,
        "used": plan.used,
        "fits": fits(plan),
        "kv_bytes_per_token": plan.kv_bytes_per_token,
        "tokens": plan.tokens,
        "sequences": plan.sequences,
        "tensor_parallel": plan.model.tensor_parallel,
        "pipeline_parallel": plan.model.pipeline_parallel,
    }


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
