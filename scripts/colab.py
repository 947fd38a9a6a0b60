"""Run every chapter as Colab would: `python scripts/colab.py`, with a Python 3.13 at hand.

The versions are Colab's, the library is installed from an archive of this tree, each chapter gets
a fresh kernel outside the repository, and sliders must be live widgets.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-colab"
# Colab in August 2026.
PYTHON = "3.13"
VERSIONS = [
    "accelerate==1.14.0",
    "datasets==4.0.0",
    "ipykernel==6.17.1",
    "ipython==7.34.0",
    "ipywidgets==7.7.1",
    "matplotlib==3.10.0",
    "nbclient",
    "numpy==2.1.3",
    "pandas==2.2.3",
    "peft==0.20.0",
    "rich==13.9.4",
    "safetensors==0.8.0",
    "sympy==1.14.0",
    "tokenizers==0.22.2",
    "torch==2.11.0",
    "transformers==5.15.0",
]


def archive(path: Path) -> None:
    """Zip the tree, uncommitted changes included, in one folder as GitHub does."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(listing, cwd=ROOT, text=True).splitlines()
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            if (ROOT / name).is_file():
                file.write(ROOT / name, f"dpo-book-main/{name}")


def run(chapter: Path) -> None:
    """Execute a chapter in the current folder with the Python that runs this function."""
    import nbformat
    from nbclient import NotebookClient

    started, book = time.perf_counter(), nbformat.read(chapter, 4)
    NotebookClient(book, timeout=900, kernel_name="python3").execute()
    sliders = [cell for cell in book.cells if cell.cell_type == "code" and "slide(" in cell.source]
    for cell in sliders:
        views = [output.get("data", {}) for output in cell.outputs]
        if not any("application/vnd.jupyter.widget-view+json" in view for view in views):
            sys.exit(f"{chapter.stem}: a slider is no widget:\n{cell.source}")
    print(f"{chapter.stem:20} {time.perf_counter() - started:5.1f} s, {len(sliders)} sliders")


def main() -> None:
    if (interpreter := shutil.which(f"python{PYTHON}")) is None:
        sys.exit(f"Colab runs Python {PYTHON}, and there is no python{PYTHON} here: install one")
    python = ENVIRONMENT / "bin/python"
    if not python.exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", ENVIRONMENT], check=True)
    hidden = ("DPO_BOOK_BUILD", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # or each kernel warns about its debugger
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "main.zip")
        archive(package)
        kept = Path(folder, "constraints.txt")  # what the library brings may change none of these
        kept.write_text("\n".join(VERSIONS))
        library = f"dpo-lib[language-model,lora] @ {package.as_uri()}"
        for what in (VERSIONS, ["--force-reinstall", "--no-deps", library], [library]):
            subprocess.run([python, "-m", "pip", "install", "-q", "-c", kept, *what], check=True)
        for chapter in sorted(ROOT.glob("book/*.ipynb")):
            subprocess.run([python, __file__, chapter], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    run(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
