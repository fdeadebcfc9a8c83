"""The house: which room may import which. Arrows run downward only, and rooms on one floor do not know each other."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tagseg"
GROUND = {"errors", "labels", "grid", "files", "cores", "kernels", "progress", "run_lengths", "settings", "version"}
MAY_IMPORT = {
    "data": set(),
    "networks": set(),
    "evaluation": set(),
    "export": {"data"},
    "report": set(),
    "attribution": {"networks"},
    "masks": {"networks"},
    "segmentation": {"data", "networks", "masks"},  # a model may end with a CRF
    "methods": {"segmentation", "masks", "data", "networks"},
    "pipeline": {
        *("methods", "attribution", "segmentation", "masks", "data", "networks", "evaluation", "report", "export")
    },
}
MAY_IMPORT["explaining"] = {"methods", "attribution", "export"} | MAY_IMPORT["methods"] | {"evaluation", "report"}
MAY_IMPORT["commands"] = {"pipeline", "export"} | MAY_IMPORT["pipeline"]
MAY_IMPORT["studies"] = {"explaining"} | MAY_IMPORT["explaining"]
MAY_IMPORT["app"] = {"explaining", "pipeline"} | MAY_IMPORT["explaining"]
ROOMS = sorted(MAY_IMPORT)


def imported(path: Path) -> set[str]:
    """What a file imports of tagseg, also inside of functions and for the types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "tagseg"}


def test_every_room_is_known():
    assert {p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists()} == set(ROOMS)
    assert {p.stem for p in SOURCE.glob("*.py")} == GROUND | {"__init__", "cli"}


@pytest.mark.parametrize("room", ROOMS)
def test_no_arrow_runs_upward(room: str):
    allowed = MAY_IMPORT[room] | GROUND | {room}
    for path in (SOURCE / room).rglob("*.py"):
        rooms = {name.split(".")[1] if "." in name else name for name in imported(path)}
        assert rooms <= allowed, path


def test_the_ground_floor_stands_on_itself():
    for name in GROUND:
        assert {n.split(".")[1] for n in imported(SOURCE / f"{name}.py")} <= GROUND, name


def test_a_geometry_is_told_by_a_grid_and_nothing_else():
    """Nobody passes a bare `corners` along; the permutohedral lattice has corners of its own."""
    for path in SOURCE.rglob("*.py"):
        if path.name == "grid.py" or "permutohedral" in path.name:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.arg):
                annotation = node.annotation
                assert not (node.arg == "corners" and isinstance(annotation, ast.Name) and annotation.id == "bool"), (
                    path
                )


LIGHT = [
    ["--version"],
    ["--help"],
    ["fit", "--help"],
    ["recipes"],
    ["recipes", "voc/oaa+++"],
    ["check", "{data}", "--quiet"],
    ["fit", "nowhere", "--out", "{out}"],
    ["fit", "{data}", "--out", "{out}", "--set", "train.epoch=3"],
    ["fit", "{data}", "--out", "{out}", "--recipe", "cma"],
    ["fit", "{data}", "--out", "{out}", "--until", "trian"],
    ["fit", "{data}", "--out", "{out}", "--refine", "par+irn"],
    ["predict", "nowhere", "{data}/images", "--out", "{out}"],
    ["predict", "nowhere", "{data}/images", "--out", "{out}", "--crf", "deplab"],
    ["refine", "{data}/images", "--masks", "nowhere", "--out", "{out}"],
    ["evaluate", "nowhere", "{data}/masks"],
    ["explain", "{data}/images", "--model", "nowhere"],
    ["explain", "{data}/images", "--model", "timm:resnet18", "--method", "layrcam"],
    ["locate", "{data}/images", "--model", "{data}"],
    ["decompose", "nowhere.jpg", "--model", "timm:resnet18"],
    ["study", "boxs", "{data}", "--model", "timm:resnet18"],
    ["study", "boxes", "{data}", "--model", "nowhere"],
]
SCRIPT = """
import json, os, sys
from tagseg import cli  # once; every command has a process that knows it already
for number, words in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(f"{number}.{stream}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = ["tagseg", *words]
        try:
            cli.main()
        except SystemExit as end:
            print("ended with", end.code)
        print("torch" in sys.modules, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_what_computes_nothing_imports_no_torch(tiny_set: Path, tmp_path: Path):
    words = [[a.format(data=tiny_set, out=tmp_path / "out") for a in arguments] for arguments in LIGHT]
    subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(words)], cwd=tmp_path, check=True)
    for number, arguments in enumerate(LIGHT):
        said, complained = ((tmp_path / f"{number}.{stream}").read_text() for stream in (1, 2))
        assert said.strip().endswith("False"), (arguments, said, complained)
        bad = "nowhere" in " ".join(arguments) or arguments[0] not in ("recipes", "check", "--version", "--help")
        if bad and "--help" not in arguments:
            assert complained.startswith("tagseg: "), (arguments, complained)
            assert complained.strip().count("\n") == 0
            assert "ended with 2" in said, arguments


def test_no_method_is_long():
    """Whoever opens a method reads all of it."""
    for path in (SOURCE / "methods").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path
