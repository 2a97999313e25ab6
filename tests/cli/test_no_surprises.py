"""A run leaves nothing behind, calls nobody, and shows texts of others as texts."""

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "qsmflow").rglob("*.py"), *(ROOT / "workflows").rglob("*.py")]
SCRIPT = "<script>alert('found')</script>"
#: A process in a network namespace of its own, where there is not even a loopback that is up.
ALONE = ["unshare", "--map-root-user", "--net"]


@dataclass(frozen=True)
class Alone:
    """A run in a process of its own: a sound subject and one whose metadata hold a script."""

    folder: Path
    code: int
    said: str
    without_network: bool
    input_unchanged: bool


def _has_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def alone(small_dataset, state_of, tmp_path_factory) -> Alone:
    folder = tmp_path_factory.mktemp("alone")
    bids_dir = folder / "input"
    shutil.copytree(small_dataset, bids_dir, ignore=shutil.ignore_patterns("derivatives"))
    for path in sorted((bids_dir / "sub-01" / "anat").iterdir()):
        target = bids_dir / "sub-02" / "anat" / path.name.replace("sub-01", "sub-02")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if path.suffix == ".json":
            target.write_text(json.dumps({**json.loads(path.read_text()), "EchoTime": SCRIPT}))
    description = json.loads((bids_dir / "dataset_description.json").read_text())
    (bids_dir / "dataset_description.json").write_text(json.dumps({**description, "Name": SCRIPT}))
    for name in ("home", "here", "tmp"):
        (folder / name).mkdir()
    before = state_of(bids_dir)
    without_network = _has_namespaces()
    line = [sys.executable, "-m", "qsmflow.cli.run", str(bids_dir), str(folder / "out"), "participant"]
    line += ["-w", str(folder / "work"), "--nprocs", "1", "--omp-nthreads", "1", "--inversion", "tkd"]
    line += ["--sloppy", "--skip-bids-validation", "--motion-correction", "off"]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment = {**kept, "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    done = subprocess.run(
        [*(ALONE if without_network else []), *line],
        cwd=folder / "here",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    unchanged = state_of(bids_dir) == before
    return Alone(folder, done.returncode, done.stdout + done.stderr, without_network, unchanged)


def test_a_run_needs_no_network(alone):
    if not alone.without_network:
        pytest.skip("no network namespace can be made here (unshare --map-root-user --net)")
    assert alone.code == 1, alone.said
    assert (alone.folder / "out/sub-01/anat/sub-01_Chimap.nii.gz").is_file()
    assert "sub-02 FAILED: input" in alone.said


def test_a_run_writes_to_output_and_work_folder_only(alone):
    assert {path.name for path in alone.folder.iterdir()} == {"input", "home", "here", "tmp", "out", "work"}
    left = [path for name in ("home", "here", "tmp") for path in (alone.folder / name).rglob("*")]
    assert not left
    assert alone.input_unchanged


@pytest.mark.parametrize("subject", ["01", "02"])
def test_a_script_in_the_metadata_is_shown_as_text(alone, subject):
    page = (alone.folder / "out" / f"sub-{subject}.html").read_text()
    assert SCRIPT not in page
    if subject == "02":
        assert "&lt;script&gt;" in page


def _calls() -> list[tuple[str, ast.Call]]:
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
    ]


def test_no_shell_runs_and_no_pickle_is_loaded():
    """Every way to run a text as a program, or to load a file that can."""
    shells = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "eval", "exec"}
    loaders = {"torch.load", "pickle.load", "pickle.loads", "joblib.load", "yaml.load", "yaml.unsafe_load"}
    found = [
        place
        for place, call in _calls()
        if ast.unparse(call.func) in shells
        or (
            ast.unparse(call.func) in loaders
            and not any(
                word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in call.keywords
            )
        )
        or any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in call.keywords)
        or any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in call.keywords)
    ]
    assert len(_calls()) > 1000
    assert not found


def test_no_module_of_the_package_speaks_to_the_network():
    network = {"socket", "http", "urllib.request", "requests", "httpx", "aiohttp", "ftplib", "smtplib"}
    imported = {
        (str(path.relative_to(ROOT)), name)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        )
    }
    assert ("qsmflow/bids/files.py", "json") in imported
    assert not [pair for pair in imported if {pair[1], pair[1].split(".")[0]} & network]


def test_usage_reports_are_off_before_any_library_is_imported():
    """The package sets the variable in its first lines, whatever module of it is imported first."""
    environment = {name: value for name, value in os.environ.items() if name != "NO_ET"}
    code = "import qsmflow.bids.names, os, sys; print(os.environ['NO_ET'], 'nipype' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "False"]
    tree = ast.parse((ROOT / "qsmflow" / "__init__.py").read_text("utf-8"))
    statements = [ast.unparse(node) for node in tree.body[1:]]
    assert statements[:2] == ["import os", "os.environ.setdefault('NO_ET', '1')"]
