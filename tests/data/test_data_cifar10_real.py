"""All of CIFAR-10 in the official layout, as its own tool writes it from the re-encoded copy."""

import subprocess
import sys
from pathlib import Path

import pytest

from prunetune.data import facts, identify, load

SHARED = Path(__file__).parents[2].parent / "shared"
TOOL = SHARED / "tools" / "expand_cifar10.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TOOL.is_file(), reason="../shared/tools/expand_cifar10.py is not here"),
]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, TOOL, folder], check=True, capture_output=True)
    return folder


def test_sixty_thousand_images(root: Path):
    ref = identify("cifar10", {"root": str(root)})
    data = load(ref)
    assert tuple(facts(ref)) == ((3, 32, 32), 10, 50000, 0, 10000, True)
    assert data.train_labels.bincount().tolist() == [5000] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert "not the official cifar10 (50000 training and 10000 test images)" in data.note
    # The literature's figures of the original pixels; JPEG moves them by less than the tolerance.
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.002)
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=0.004)


def test_a_limited_part(root: Path):
    data = load(identify("cifar10", {"root": str(root), "train_limit": 10000, "validation": 0.1}))
    assert (len(data.train_labels), len(data.validation_labels), len(data.test_labels)) == (9000, 1000, 10000)
