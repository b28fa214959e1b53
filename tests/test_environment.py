import json
import subprocess
import sys

from clickflax.runtime import environment


def git(folder, *arguments):
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", folder, *name, *arguments], check=True, capture_output=True)


def test_an_environment_survives_json_and_names_what_a_result_depends_on():
    made = environment.environment("abc123")
    assert json.loads(json.dumps(made)) == made
    assert made["data"] == "abc123"
    assert made["devices"] == {"cpu": 8}
    assert made["backend"] == "cpu"
    assert made["versions"]["python"] == sys.version.split()[0]
    assert made["versions"].keys() >= {"clickflax", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert made["cores"] >= 1
    assert made["started"].endswith("+00:00")


def test_a_run_resumed_in_another_environment_has_both_starts():
    today = environment.environment("abc123")
    assert environment.add_start(today) == today
    elsewhere = today | {"cpu": "another", "command": "the first one"}
    both = environment.add_start(elsewhere)
    assert both["cpu"] == "another"
    assert [start["cpu"] for start in environment.read_starts(both)] == ["another", today["cpu"]]
    assert environment.add_start(both) == both


def test_a_changed_file_makes_a_checkout_dirty(tmp_path):
    root = tmp_path.resolve()
    git(root, "init")
    (root / "a.py").write_text("a = 1\n")
    git(root, "add", ".")
    git(root, "commit", "-m", "first")
    clean = environment.checkout_state(root)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (root / "records").mkdir()
    (root / "records" / "a.json").write_text("{}")  # a result is no code
    assert environment.checkout_state(root) == clean
    (root / "a.py").write_text("a = 2\n")
    assert environment.checkout_state(root) == {"commit": clean["commit"], "dirty": True}


def test_a_package_installed_inside_another_checkout_has_no_commit(tmp_path):
    git(tmp_path, "init")
    inside = tmp_path.resolve() / "site-packages"
    inside.mkdir()
    assert environment.checkout_state(inside) == {"commit": None, "dirty": None}


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.checkout_state(tmp_path.resolve()) == {"commit": None, "dirty": None}


def test_a_checkout_without_a_commit_is_dirty(tmp_path):
    root = tmp_path.resolve()
    git(root, "init")
    (root / "a.py").write_text("a = 1\n")
    assert environment.checkout_state(root) == {"commit": None, "dirty": True}
