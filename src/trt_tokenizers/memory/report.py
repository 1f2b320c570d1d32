"""A plan of memory, drawn: a bar of text, a table, a bar in SVG or PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.memory.planner import GIB, MemoryEstimate, advice, fits

_LETTERS = {"weights": "W", "activations": "A", "CUDA": "C", "KV cache": "K", "free": "."}
_COLOURS = {
    "weights": "#4269d0", "activations": "#efb118", "CUDA": "#9c6b4e", "KV cache": "#3ca951",
    "free": "#d9d9d9",
}  # fmt: skip
_WIDTH = 64


def text(made: MemoryEstimate) -> str:
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


@dataclass(frozen=True)
class _Shape:
    """A rectangle, or a line of text whose baseline begins at (x, y) and whose height is `height`;
    in units of a picture of `_SIZE`."""

    x: float
    y: float
    height: float
    width: float = 0
    colour: str = "#000000"
    text: str = ""


_SIZE = 640, 96


def _shapes(made: MemoryEstimate) -> Iterator[_Shape]:
    yield _Shape(10, 20, 13, text=f"{made.model.folder.name}: one GPU of {_gib(made.gpu)}")
    whole, at = max(made.gpu, made.used), 10.0
    for number, (name, size) in enumerate(made.parts):
        width, x = size / whole * 620, 10 + number * 124
        yield _Shape(at, 30, 28, width, _COLOURS[name])
        yield _Shape(x, 72, 10, 10, _COLOURS[name])
        yield _Shape(x + 14, 81, 11, text=f"{name} {_gib(size)}")
        at += width


def draw(made: MemoryEstimate, file: Path) -> None:
    """
    Raises:
        SettingsError: it ends in neither .svg nor .png, or Pillow is missing.
    """
    if file.suffix not in (".svg", ".png"):
        raise SettingsError(f"picture {file}: the name must end in .svg or .png")
    file.write_bytes(_svg(made).encode() if file.suffix == ".svg" else _png(made))


def _svg(made: MemoryEstimate) -> str:
    """640 × 96."""
    drawn = "".join(
        f'<text x="{s.x}" y="{s.y}" font-size="{s.height}">{escape(s.text)}</text>'
        if s.text
        else f'<rect x="{s.x:.1f}" y="{s.y}" width="{s.width:.1f}" height="{s.height}" '
        f'fill="{s.colour}"/>'
        for s in _shapes(made)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" '
        f'font-family="sans-serif">{drawn}</svg>\n'
    )


def _png(made: MemoryEstimate) -> bytes:
    """1280 × 192 pixels."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise SettingsError(
            "a PNG is drawn with Pillow; pip install 'trt-tokenizers[png]', or name an .svg"
        ) from None
    scale = 2
    image = Image.new("RGB", (_SIZE[0] * scale, _SIZE[1] * scale), "white")
    draw = ImageDraw.Draw(image)
    for s in _shapes(made):
        x, y = s.x * scale, s.y * scale
        if s.text:
            font = ImageFont.load_default(s.height * scale)
            draw.text((x, y), s.text, "black", font, anchor="ls")
        elif s.width * scale >= 1:
            # Pillow's rectangles have their last pixel in them.
            corner = x + s.width * scale - 1, y + s.height * scale - 1
            draw.rectangle((x, y, *corner), s.colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def as_dict(made: MemoryEstimate) -> dict[str, float | int | bool]:
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
