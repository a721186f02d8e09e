"""Builds docs/seed_article.md from the table of claims that the tests execute.

Run `python tools/build_seed_article.py` after a change of
analysis/assets/article_claims.toml; a test compares the page with the table.
"""

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "analysis" / "assets" / "article_claims.toml"
PAGE = ROOT / "docs" / "seed_article.md"
VERDICTS = {"R": "right", "S": "special case", "W": "**wrong**"}
INTRODUCTION = """\
# The seed article, claim by claim

<!-- Built by tools/build_seed_article.py from analysis/assets/article_claims.toml. -->

This project began with a blog article, in Chinese, that explains transposed convolution
and ends with a DCGAN in TensorFlow. Its {total} claims are restated here one by one:
{R} are right, {S} hold only in a special case, {W} are wrong. A claim with numbers is
executed by `tests/test_article.py` against TensorFlow, or against PyTorch where the
check's name begins with `torch`; the last column shows the call and what the framework
answers. Sizes: input i, kernel k, stride s, padding p, dilation d, output o,
output_padding op; along one axis unless a shape is given.

**The ones to remember are I7 to I9.** From 7 to 14 pixels the article pads (2, 2) and
adds one row. TensorFlow crops (1, 2), because it starts from the *output* size. Both
give 14 pixels, so no shape check notices, and every value sits one pixel away.
`python -m analysis explain --input 7 --kernel 5 --stride 2 --padding same` shows it.
"""


def load_claims() -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Returns the section titles by letter, and the claims in their order."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return table["sections"], table["claim"]


def call_text(check: dict[str, Any]) -> str:
    """Returns the call of one check and its answer as Markdown."""
    arguments = ", ".join(
        f"{key}={json.dumps(value)}" for key, value in check["with"].items()
    )
    return f"`{check['run']}({arguments})` = {json.dumps(check['gives'])}"


def render() -> str:
    """Returns the whole page."""
    sections, claims = load_claims()
    counts = Counter(claim["verdict"] for claim in claims)
    lines = [INTRODUCTION.format(total=len(claims), **counts)]
    for letter, title in sections.items():
        lines += [f"## {letter}. {title}", ""]
        lines += ["| | the article says | verdict | in truth | executed |"]
        lines += ["|---|---|---|---|---|"]
        for claim in claims:
            if claim["id"].startswith(letter):
                done = "<br>".join(map(call_text, claim.get("checks", [])))
                cells = (claim["claim"], VERDICTS[claim["verdict"]], claim["truth"])
                lines.append(f"| {claim['id']} | {' | '.join(cells)} | {done} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
