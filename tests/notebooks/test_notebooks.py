"""Every notebook runs from top to bottom, anywhere, and is stored clean."""

import base64
import os
import re
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot  # noqa: F401
import nbformat
import pytest
from forks import Forked
from ipykernel import kernelapp
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import local_provisioner
from nbclient import NotebookClient

import packformer.data
import packformer.model
import packformer.training  # noqa: F401

FOLDER = Path(__file__).parents[2] / "notebooks"
# Pictures of each, and something that it must print.
NOTEBOOKS = {
    "packed_attention": (6, r"accuracy \d+\.\d% of [\d,]+ answer tokens"),
    "generate": (1, r"two and two make\| \w+\.\n[\s\S]* 1536 MiB [\s\S]* 384 MiB .*GQA \(4\)\n"),
}


def test_every_notebook_is_known():
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == set(NOTEBOOKS)


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures_of(notebook):
    pictures = [output.get("data", {}).get("image/png") for output in outputs_of(notebook)]
    return [base64.b64decode(picture) for picture in pictures if picture]


def printed_by(notebook):
    return "".join(o.text for o in outputs_of(notebook) if o.output_type == "stream")


def be_a_kernel(arguments):
    warnings.resetwarnings()  # those of the tests
    os.environ["JPY_PARENT_PID"] = str(os.getppid())
    sys.argv = ["ipykernel_launcher", *arguments]
    kernelapp.launch_new_instance()


@pytest.fixture
def forked_kernel(monkeypatch):
    """Kernels that import nothing again."""

    def launch(command, env, cwd, **streams):
        arguments = command[command.index("ipykernel_launcher") + 1 :]
        with open(os.devnull, "w") as nowhere:
            process = Forked(be_a_kernel, arguments, cwd=cwd, env=env, output=nowhere.fileno())
        process.stdin = process.stderr = None
        return process

    monkeypatch.setattr(local_provisioner, "launch_kernel", launch)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.usefixtures("forked_kernel")
def test_a_notebook_runs_anywhere_and_writes_nothing(tmp_path, monkeypatch, name):
    num_pictures, printed = NOTEBOOKS[name]
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    # Without folders to search, "python3" is the ipykernel of the running interpreter.
    kernel = KernelManager(
        kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
    )
    client = NotebookClient(
        notebook, km=kernel, timeout=180, resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute()
    finally:
        if kernel.has_kernel:
            kernel.shutdown_kernel(now=True)

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [o for o in outputs_of(notebook) if o.output_type == "error"]
    pictures = pictures_of(notebook)
    assert len(pictures) == num_pictures
    assert all(p.startswith(b"\x89PNG") and len(p) > 4_000 for p in pictures)
    assert re.search(printed, printed_by(notebook))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_with_pictures_and_without_traces_of_a_machine(name):
    file = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert file.stat().st_size < 300 * 1024
    assert len(pictures_of(notebook)) == NOTEBOOKS[name][0]
    assert {o.output_type for o in outputs_of(notebook)} == {"stream", "display_data"}
    assert {o.name for o in outputs_of(notebook) if o.output_type == "stream"} == {"stdout"}
    words = "\n".join([printed_by(notebook), *(cell.source for cell in notebook.cells)])
    assert not re.search(r"(?<![\w.])[/~]\w+/|[A-Za-z]:\\|Warning|Traceback", words)
