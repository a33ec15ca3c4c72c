"""The chat page: one file, with a policy that lets the browser run exactly what is in it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from starlette.responses import HTMLResponse

PAGE = Path(__file__).with_name("static") / "index.html"


def chat_page() -> HTMLResponse:
    """The page with its Content-Security-Policy; nothing is loaded from elsewhere."""
    html = PAGE.read_text("utf-8")
    policy = "; ".join(
        [
            "default-src 'none'",
            "connect-src 'self'",
            "img-src data:",  # the icon
            f"script-src {_hash(html, 'script')}",
            f"style-src {_hash(html, 'style')}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
    return HTMLResponse(html, headers=headers)


def _hash(html: str, tag: str) -> str:
    """CSP source of the one inline element with this tag."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
