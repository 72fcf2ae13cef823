"""Generates `clients/python/bursar/v1` from `proto/bursar/v1`.

    python proto/generate.py            writes the generated modules where they belong
    python proto/generate.py --check    fails, naming them, when the committed ones differ
    python proto/generate.py --out DIR  writes them under DIR instead (DIR/bursar/v1)

For each proto it writes the messages (`*_pb2.py`), the services (`*_pb2_grpc.py`) and the types
of both (`*.pyi`). The package's own `__init__.py` is written by hand and left alone.
"""

import argparse
import importlib.resources
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO_ROOT = Path(__file__).resolve().parent
PYTHON_ROOT = PROTO_ROOT.parent / "clients" / "python"
PACKAGE = Path("bursar", "v1")
WRITTEN_BY_HAND = {"__init__.py"}
REMEDY = "run `make proto` and commit what it writes"


class GenerationError(Exception):
    """The compiler refused the protos; what it said is on standard error already."""


def generate(out: Path) -> None:
    """Write the generated modules under `out`; raises GenerationError if the protos are faulty."""
    sources = sorted(str(path) for path in (PROTO_ROOT / PACKAGE).glob("*.proto"))
    scripts = Path(sys.executable).parent
    google_types = importlib.resources.files("google.rpc").joinpath("status.proto")
    status = protoc.main(
        [
            "protoc",
            f"-I{PROTO_ROOT}",
            f"-I{importlib.resources.files('grpc_tools') / '_proto'}",
            f"-I{Path(str(google_types)).parents[2]}",
            f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *sources,
        ]
    )
    if status != 0:
        raise GenerationError(f"protoc ended with status {status}")


def generated_files(root: Path) -> dict[str, str]:
    """The text of every generated module of the package under `root`, by its name."""
    return {
        path.name: path.read_text()
        for path in sorted((root / PACKAGE).glob("*.py*"))
        if path.name not in WRITTEN_BY_HAND
    }


def differences() -> list[str]:
    """What is wrong with the committed modules, one line each; empty when they are up to date."""
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        wanted = generated_files(Path(directory))
    found = generated_files(PYTHON_ROOT)
    return [
        *(f"{name}: missing; {REMEDY}" for name in sorted(wanted.keys() - found.keys())),
        *(f"{name}: no proto makes it; remove it" for name in sorted(found.keys() - wanted.keys())),
        *(
            f"{name}: differs from what its proto makes; {REMEDY}"
            for name in sorted(wanted.keys() & found.keys())
            if wanted[name] != found[name]
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the Python code of the protos.")
    parser.add_argument("--check", action="store_true", help="compare only; fail on a difference")
    parser.add_argument("--out", type=Path, default=PYTHON_ROOT, help="where to write")
    options = parser.parse_args()
    try:
        if not options.check:
            generate(options.out)
            return 0
        faults = differences()
    except GenerationError as error:
        sys.stderr.write(f"proto/generate.py: {error}\n")
        return 1
    for fault in faults:
        sys.stderr.write(f"{PACKAGE / fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
