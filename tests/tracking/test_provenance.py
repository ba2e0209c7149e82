import json
import subprocess

from lightning_bpd.tracking.provenance import git_state, provenance


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_provenance_is_plain_data():
    found = provenance()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["lightning_bpd"]
    assert found["packages"]["vector-quantize-pytorch"]
    assert found["device"]


def test_git_state_tells_changed_files(tmp_path):
    assert git_state(tmp_path) is None
    git(tmp_path, "init")
    assert git_state(tmp_path) is None  # nothing committed yet
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    state = git_state(tmp_path)
    assert state is not None
    assert len(state["revision"]) == 40
    assert state["changed"] is False
    (tmp_path / "untracked").write_text("a")
    assert git_state(tmp_path) == state
    (tmp_path / "file").write_text("b")
    assert git_state(tmp_path) == {**state, "changed": True}


def test_a_folder_inside_a_repository_is_not_that_repository(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "inside").mkdir()
    assert git_state(tmp_path / "inside") is None
