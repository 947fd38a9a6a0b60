"""Compare losses, log and token ids with TRL 1.16: `python scripts/trl_oracle.py`.

It makes `.venv-trl` (TRL is no dependency of ours), writes tiny models with random weights and
tokenizers with real chat templates, runs TRL's own trainers and ours on them, and writes
`docs/trl.md`, a table in which every line is equal or explained, and `tests/trl.json`, TRL's
numbers that the tests hold the losses to. About two minutes on one core; after the packages are
installed it needs no network. It ends with exit code 1 if anything differs without an explanation.
What is compared is said in the modules of `oracle/`, a line for each loss.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from importlib import metadata
from pathlib import Path

from environment import LOCK, PROJECT, ROOT, asked_for

ENVIRONMENT = ROOT / ".venv-trl"
STAMP = ENVIRONMENT / "oracle"  # what was installed for this script; written last
WANTED = ["trl==1.16.*", *asked_for(PROJECT)]
PAGE, NUMBERS = ROOT / "docs/trl.md", ROOT / "tests/trl.json"
INSIDE = "DPO_TRL_ORACLE"  # set in the process that runs in the environment
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",  # sums in one order
    "PYTHONHASHSEED": "0",  # TRL looks at the first key of a set
}


def python_with_trl() -> Path:
    """The interpreter of .venv-trl, which is made or completed where it has to be."""
    python = ENVIRONMENT / "bin/python"
    wanted = "\n".join([*WANTED, hashlib.sha256(LOCK.read_bytes()).hexdigest()])
    if STAMP.exists() and STAMP.read_text() == wanted:
        return python
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", LOCK, *WANTED], check=True)
    STAMP.write_text(wanted)
    return python


def compare() -> int:
    """Run every comparison and write page and numbers; 1 if something differs."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # between TRL and transformers
    import datasets
    from oracle import folders, formulas, losses, metrics, page, templates

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = folders.write_models(folder)
        numbers = formulas.compute(folder, tokenizer)
        text = page.text(
            versions(),
            losses.compare(folder, tokenizer),
            metrics.compare(folder, tokenizer),
            templates.conversations(folder),
            templates.texts(folder),
        )
    PAGE.write_text(text)
    cases = [vars(case) for case in formulas.CASES]
    stored = {"made by": "scripts/trl_oracle.py", "versions": versions(), "cases": cases}
    NUMBERS.write_text(json.dumps(stored | {"formulas": numbers}, indent=1) + "\n")
    print(text)
    return int(page.DIFFERENT in text)


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {name: metadata.version(name).split("+")[0] for name in ("trl", "transformers", "torch")}


if __name__ == "__main__":
    if INSIDE in os.environ:
        sys.path.insert(0, str(ROOT))
        sys.exit(compare())
    environment = os.environ | QUIET | {INSIDE: "1"}
    sys.exit(subprocess.run([python_with_trl(), __file__], env=environment).returncode)
