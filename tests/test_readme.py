"""The Python in the READMEs works as it stands there."""

import contextlib
import io
from pathlib import Path

import jax
import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
BLOCKS = [
    pytest.param(token.content, id=f"{path.relative_to(ROOT)}:{token.map[0] + 1}")
    for path in sorted(ROOT.glob("**/README.md"))
    for token in MarkdownIt().parse(path.read_text())
    if token.type == "fence" and token.info == "python" and token.map
]


def test_the_readme_shows_the_library():
    assert any("mnist_jax" in block.values[0] for block in BLOCKS)


@pytest.mark.mnist
@pytest.mark.parametrize("code", BLOCKS)
def test_a_block_runs(code, mnist_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(mnist_dir))
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    standard = jax.numpy_dtype_promotion("standard")  # as users have it; optax.adam needs it
    with contextlib.redirect_stdout(printed), standard:
        exec(compile(code, "README", "exec"), {})
    assert printed.getvalue()
