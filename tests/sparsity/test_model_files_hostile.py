"""Checkpoints that are made to break whoever reads them: each gets one line, and takes no more room than it has."""

import io
import pickle
import resource
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from prunetune.errors import ConfigError
from prunetune.sparsity.correlate_files import correlate_files, correlation_table
from prunetune.sparsity.model_files import read_state
from tests.support.fuzzing import EXAMPLES, assert_one_clear_line, fuzz
from tests.support.refusals import refused

STATE = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.tensor([1.0, -1.0])}
ROOM = 300_000  # kB that reading may take beyond what was taken before


def saved(state: object, **options: bool) -> bytes:
    content = io.BytesIO()
    torch.save(state, content, **options)
    return content.getvalue()


def line_of(content: bytes, path: Path) -> str:
    """The line with which a file is refused; it may not have taken much memory by then."""
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError) as caught:
        read_state(path, "A")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ROOM
    return assert_one_clear_line(caught.value)


def zip_bomb(size: int) -> bytes:
    """A checkpoint whose one tensor is `size` bytes of zeros, deflated to a thousandth."""
    plain = saved({"w": torch.zeros(size // 4)})
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plain)) as given, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in given.infolist():
            archive.writestr(entry.filename, given.read(entry))
    return packed.getvalue()


def test_a_zip_bomb(tmp_path: Path) -> None:
    content = zip_bomb(50_000_000)
    assert len(content) < 100_000
    line = line_of(content, tmp_path / "bomb.pt")
    assert line == (
        f"A: '{tmp_path}/bomb.pt' unpacks to 50,00{line.split('50,00')[1].split(' ')[0]} bytes, the file has "
        f"{len(content):,}; torch.save packs nothing"
    )


def test_one_number_that_stands_for_billions(tmp_path: Path) -> None:
    wide = torch.zeros(1).expand(100_000, 100_000)
    line = line_of(saved({"w": wide}), tmp_path / "wide.pt")
    assert "its tensors claim 40,000,000,000 bytes, the file has " in line


def test_a_few_numbers_that_are_repeated_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(saved({"w": torch.arange(3.0).expand(2, 3)}))
    assert read_state(tmp_path / "a.pt")["w"].tolist() == [[0.0, 1.0, 2.0]] * 2


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.zeros(3, device="meta")], ids=["sparse", "meta"])
def test_tensors_that_are_no_numbers_side_by_side(tensor: torch.Tensor, tmp_path: Path) -> None:
    line = line_of(saved({"w": tensor}), tmp_path / "odd.pt")
    assert "is no dense tensor" in line or "holds more than plain tensors" in line


def test_a_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    huge = b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    line = line_of(len(huge).to_bytes(8, "little") + huge, tmp_path / "huge.safetensors")
    assert "is a damaged safetensors file" in line
    line_of((2**62).to_bytes(8, "little") + huge, tmp_path / "long.safetensors")


def test_deep_pickles_and_endless_files(tmp_path: Path) -> None:
    deep: object = 0
    for _ in range(100):
        deep = [deep]
    line_of(saved({"epoch": deep}), tmp_path / "deep.pt")
    line_of(b"(" * 500_000 + b".", tmp_path / "marks.pkl")
    with refused("A", "/dev/zero", "device"):
        read_state("/dev/zero", "A")


FORMS = {
    "safetensors": save(STATE),
    "zip": saved(STATE),
    "legacy": saved(OrderedDict(STATE), _use_new_zipfile_serialization=False),
    "pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_damage(form: str, tmp_path: Path) -> None:
    """Bytes changed, cut out or put in anywhere: the state, or one line."""
    content, path = FORMS[form], tmp_path / "damaged"
    cuts = st.integers(0, len(content))

    @fuzz(max(25, EXAMPLES // 4))
    @given(st.lists(st.tuples(cuts, cuts, st.binary(max_size=8)), min_size=1, max_size=3))
    def attempt(changes: list[tuple[int, int, bytes]]) -> None:
        damaged = content
        for first, second, new in changes:
            begin, end = sorted((first, second))
            end = min(end, begin + 12)
            damaged = damaged[:begin] + new + damaged[end:]
        path.write_bytes(damaged)
        try:
            read_state(path, "A")
        except ConfigError as error:
            assert_one_clear_line(error)

    attempt()


def test_names_reach_a_terminal_without_their_escape_sequences(tmp_path: Path) -> None:
    weird = {
        name: torch.eye(4) for name in ("w²", "w" + "9" * 5000, "w10", "w9", "\x1b[2Jw", "two\nlines", "../../etc")
    }
    (tmp_path / "a.safetensors").write_bytes(save(weird))
    found = correlate_files(tmp_path / "a.safetensors", tmp_path / "a.safetensors", None, [0.2], [], [])
    lines = correlation_table(found).splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 1 + 1 + len(weird) + 1 + 2
    assert list(found["tensors"]).index("w9") < list(found["tensors"]).index("w10")
