import os

import pytest

from lightning_bpd.files import write_atomically


@pytest.mark.parametrize(
    ("content", "written"), [("ä\r\n", b"\xc3\xa4\r\n"), (b"\x00\xff", b"\x00\xff"), ("", b"")]
)
def test_content_is_written_as_it_is(tmp_path, content, written):
    path = tmp_path / "new" / "folder" / "file"
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_bytes() == written
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_an_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupted(source, target):
        raise KeyboardInterrupt

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
