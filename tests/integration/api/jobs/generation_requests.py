"""Valid requests for a video, and pictures for them."""

import base64
from typing import Any

from PIL import Image

from tests.unit.api.http.test_images import encoded

URL = "/api/v1/jobs/generation"
GOOD: dict[str, Any] = {"model_id": "T2V-A14B", "prompt": "a cat walks", "resolution": "64x64", "frames": 9, "steps": 2}


def picture(format: str = "PNG") -> bytes:
    return encoded(Image.new("RGB", (16, 16), "green"), format)


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
