"""For mkdocs: links from docs/ to other folders of the repository lead to the repository; pictures come along.

The theme's link to the repository would ask GitHub for its stars on every visit; it is a mere link here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_RESULTS = Path("benchmarks", "results")
_PICTURE = re.compile(r"\]\(\.\./benchmarks/results/([^)]+\.svg)\)")
_OUTSIDE = re.compile(r"\]\(\.\./")

_ASKS_GITHUB = ' data-md-component="source"'


def on_files(files: Any, config: Any) -> Any:
    """The pictures of what was measured, as files of the site."""
    root = Path(config["config_file_path"]).parent
    for picture in sorted((root / _RESULTS).glob("*.svg")):
        files.append(File.generated(config, f"results/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    with_pictures = _PICTURE.sub(r"](results/\1)", markdown)
    return _OUTSIDE.sub(f"]({config['repo_url']}/blob/main/", with_pictures)


def on_post_page(output: str, **_: Any) -> str:
    return output.replace(_ASKS_GITHUB, "")


def on_post_template(output_content: str, **_: Any) -> str:
    return output_content.replace(_ASKS_GITHUB, "")  # the page for what is not found
