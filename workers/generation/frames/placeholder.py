"""The placeholder output of `mock_generation`: frames with a visible label that no model was run.

A job gets it only if its request names the strategy in `fallback`. Text from the request is drawn, never interpreted.
"""

from collections.abc import Iterator

import numpy
from PIL import Image, ImageDraw, ImageFont

from shared.catalogue.job_types import GenerationParams

TITLE = "MOCK - no model was run"
_BARS = ((192, 192, 192), (192, 192, 0), (0, 192, 192), (0, 192, 0), (192, 0, 192), (192, 0, 0), (0, 0, 192))
_EXCERPT = 120  # characters of the prompt


def frames(params: GenerationParams) -> Iterator[numpy.ndarray]:
    """Yield labelled frames, (height, width, 3) uint8, in the requested number and size; deterministic."""
    background = _background(params.width, params.height)
    size = max(8, min(params.width // 16, params.height // 8))
    small_size = max(8, size * 2 // 3)
    font, small = ImageFont.load_default(size), ImageFont.load_default(small_size)
    excerpt = _excerpt(params.prompt)
    for index in range(params.frames):
        image = background.copy()
        draw = ImageDraw.Draw(image)
        top = float(params.height // 8)
        lines = [(TITLE, font), (f"frame {index + 1} of {params.frames}", small), (params.model_id, small)]
        for text, face in lines + [(line, small) for line in _wrapped(excerpt, small, params.width * 0.9)]:
            left, upper, right, lower = draw.textbbox((params.width // 20, top), text, font=face)
            draw.rectangle((left - 2, upper - 2, right + 2, lower + 2), fill=(0, 0, 0))
            draw.text((params.width // 20, top), text, font=face, fill=(255, 255, 255))
            top += (size if face is font else small_size) * 1.4
        reached = round(params.width * (index + 1) / params.frames)
        draw.rectangle((0, params.height - params.height // 16, reached, params.height), fill=(255, 255, 255))
        yield numpy.asarray(image)


def _background(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for index, colour in enumerate(_BARS):
        draw.rectangle((width * index // len(_BARS), 0, width * (index + 1) // len(_BARS), height), fill=colour)
    return image


def _excerpt(prompt: str) -> str:
    """Return one line of drawable characters; others become question marks, line breaks spaces."""
    line = " ".join(prompt.split())
    plain = "".join(char if char.isprintable() else "?" for char in line)
    return plain if len(plain) <= _EXCERPT else plain[: _EXCERPT - 3] + "..."


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    lines = [""]
    for char in text:
        if font.getlength(lines[-1] + char) > width and lines[-1]:
            lines.append("")
        lines[-1] += char
    return lines
