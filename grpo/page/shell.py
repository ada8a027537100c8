"""The frame of every page: style, scripts and data put into one HTML file under a content security policy.

Only the page's own scripts run. A page whose parts lie beside it may load scripts from there, a live page may ask its
own server; nothing else can be loaded. Data are base64, which holds no character that HTML could read.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from grpo.page.bundle import in_base64

ASSETS = Path(__file__).parent / "assets"
READING = ("vendor/katex.min.js", "text.js")  # scripts that show what a model wrote
BASE = ("parts.js", *READING, "plots.js")


def shell(
    body: str,
    title: str,
    facts: str,
    scripts: Sequence[str],
    parts: Mapping[str, bytes],
    *,
    source: str = "inline",
    said: Sequence[str] = (),
) -> str:
    """The page as text.

    Args:
        body: HTML, in which whatever is not ours is escaped.
        facts: the line below the title.
        scripts: their text, in order.
        parts: data that the page holds itself, name -> bytes (grpo/page/bundle.py).
        source: where the other parts are: "inline" (there are none), "beside" (a folder of scripts), "live" (a server).
        said: sentences about what could not be read.
    """
    style = asset("style.css")
    more = {"inline": "", "beside": " 'self' file:", "live": ""}[source]
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src {_hash(style)}; script-src "
        f"{' '.join(map(_hash, scripts))}{more}" + "; connect-src 'self'" * (source == "live")
    )
    return Template(asset("shell.html")).substitute(
        policy=policy,
        title=html.escape(title),
        facts=html.escape(facts),
        said="".join(f'<p class="warning">{html.escape(sentence)}</p>' for sentence in said),
        style=style,
        source=source,
        body=body,
        parts="".join(
            f'<script type="application/octet-stream" id="part-{name}">{in_base64(part)}</script>\n'
            for name, part in parts.items()
        ),
        scripts="".join(f"<script>{script}</script>\n" for script in scripts),
    )


def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
