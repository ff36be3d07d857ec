"""Plug-ins that are not there, not right or not alone: told in one line with the recipe's, before any work starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmpo import plugins
from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES
from mmpo.registry import Registry
from tests.cli.conftest import Invoke

Write = Callable[[str, str], Path]

LOSS = """\
from mmpo.objectives import objective
from mmpo.objectives.term import log_ratios, per_pair

@objective("{name}")
def {function}(pairs, *, beta: float = 0.1):
    return per_pair(-beta * log_ratios(pairs).gap)
"""


@pytest.fixture
def check(mmpo: Invoke, module: Write, recipe: Path, here: Path) -> Callable[..., str]:
    """`check("plugins: [mine]")`: what `mmpo recipe check` says of the small recipe with that line before it; it must
    refuse without a trace."""
    text = recipe.read_text()

    def refused(line: str, *words: object) -> str:
        (here / "my.yaml").write_text(f"{line}\n{text}")
        result = mmpo("recipe", "check", "my.yaml", *words)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        return result.stderr

    return refused


WRONG = [
    ("plugins: [mien]", "my.yaml:1: plugins.0: there is no module mien", "did you mean mine?"),
    ("plugins: [mine, no_such_thing_at_all]", "my.yaml:1: plugins.1: there is no module", "pip install its package"),
    ("plugins: mine", "my.yaml:1: plugins: must be a list of modules (it is 'mine')", "plugins: [mine]"),
    ("plugins: {mine: 1}", "must be a list of modules", "for example plugins: [my_package.my_module]"),
    ("plugins: [3]", "plugins.0: must be a module's name (it is 3)", ""),
    ("plugins: [[mine]]", "plugins.0: must be a module's name (it is ['mine'])", ""),
    (
        "plugins: [modules/mine.py]",
        "plugins.0: modules/mine.py is a path",
        "the module's name is mine; PYTHONPATH=modules",
    ),
    ("plugins: [mine.py]", "mine.py is a path; a module's name belongs here", "PYTHONPATH=."),
    ("plugins: [../mine]", "../mine is a path", ""),
    ("plugins: ['']", "'' is no module's name", ""),
    ("plugins: [.mine]", "'.mine' is no module's name", ""),
    ("plugins: ['mine; import os']", "is no module's name", ""),
    ("plugins: ['${model}']", "is no module's name", ""),
    ("plugins: [mine.part]", "plugins.0: there is no module mine.part", ""),
    ("plugins: [json.decodr]", "there is no module json.decodr", "did you mean json.decoder?"),
    ("plugin: [mine]", "my.yaml:1: plugin: unknown key; did you mean plugins?", ""),
]


@pytest.mark.parametrize(("line", "message", "hint"), WRONG)
def test_what_is_no_module(check: Callable[..., str], module: Write, line: str, message: str, hint: str) -> None:
    module("mine", "")
    told = check(line)
    assert message in told and hint in told


def test_a_module_in_the_current_folder_is_pointed_at(check: Callable[..., str], here: Path) -> None:
    (here / "beside.py").write_text("")
    told = check("plugins: [beside]")
    assert "there is no module beside" in told and "put PYTHONPATH=. before the command" in told


RAISES = [
    ("x = 1\nraise ValueError('no key')\n", "mine fails when it is imported: mine.py:2: ValueError: no key"),
    ("import no_such_package\n", "mine needs the module no_such_package, which is not there"),
    ("def f(:\n", "mine fails when it is imported: mine.py:1: SyntaxError"),
    ("import sys\nsys.exit(3)\n", "mine fails when it is imported: mine.py:2: SystemExit: 3"),
    ("from mmpo.objectives import nothing\n", "mine fails when it is imported: mine.py:1: ImportError"),
    ("1 / 0", "mine fails when it is imported: mine.py:1: ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize(("text", "message"), RAISES)
def test_a_module_that_raises(check: Callable[..., str], module: Write, text: str, message: str) -> None:
    module("mine", text)
    told = check("plugins: [mine]")
    assert f"my.yaml:1: plugins.0: {message}" in told


def test_all_that_are_wrong_are_told_at_once(check: Callable[..., str], module: Write) -> None:
    module("mine", "1 / 0")
    told = check("plugins:\n  - mine\n  - mien\n  - 3")
    assert "3 mistakes" in told and "my.yaml:2: plugins.0" in told and "my.yaml:4: plugins.2" in told


def test_one_that_fails_leaves_nothing_behind(check: Callable[..., str], module: Write) -> None:
    module("mine", LOSS.format(name="half", function="half") + "1 / 0\n")
    check("plugins: [mine]")
    assert "half" not in OBJECTIVES and "mine" not in sys.modules and "mine" not in plugins.loaded()
    module("mine", LOSS.format(name="half", function="half"))
    plugins.load("mine")
    assert OBJECTIVES["half"].parameters == {"beta": 0.1}


def test_one_name_twice_is_refused_with_both_owners(check: Callable[..., str], module: Write) -> None:
    module("mine", LOSS.format(name="dpo", function="mine"))
    assert "two objectives are called 'dpo': one of mmpo.objectives.pairwise, one of mine" in check("plugins: [mine]")
    module("first", LOSS.format(name="new", function="mine"))
    module("second", LOSS.format(name="new", function="other"))
    told = check("plugins: [first, second]")
    assert "plugins.1: second: two objectives are called 'new': one of first, one of second" in told
    module("third", LOSS.format(name="x", function="x") + LOSS.format(name="x", function="y"))
    assert "one of third, one of third" in check("plugins: [third]")


TAKEN = [
    (
        "from mmpo.models.families.records import *\nFAMILIES.add('x', Family('Mine', 'y'))",
        "x: no record of this model type",
    ),
    (
        "from mmpo.models.families.records import *\nFAMILIES.add('mllama', Family('M', 'mllama'))",
        "mllama can't have a record",
    ),
    ("from mmpo.data.convert.run import FORMATS\nFORMATS.add('x', read)", "NameError"),
    ("from mmpo.data.convert.run import FORMATS\nFORMATS.add('x', 'read')", "x: no format of this name"),
    (
        "from mmpo.eval.task import Task, benchmark\n@benchmark('b')\nclass B(Task): pass",
        "the benchmark b has no requests and no score",
    ),
    (
        "from mmpo.models.families.records import *\nFAMILIES.add('llava', Family('Mine', 'llava'))",
        "two model families",
    ),
    ("from mmpo.eval.task import benchmark\n@benchmark('b')\nclass B: pass", "b is no class derived from Task"),
    ("from mmpo.eval.task import benchmark\n@benchmark('judge')\nclass B: pass", "called 'judge': that is a"),
    (
        "from mmpo.eval.task import benchmark\n@benchmark('pope')\nclass B: pass",
        "'pope': one of mmpo.eval.pope.task, one of mine",
    ),
    ("from mmpo.eval.task import benchmark\n@benchmark('my-own')\nclass B: pass", "no word that can be a key"),
    (
        "from mmpo.data_builders.builders import register\nfrom mmpo.settings import Settings\n"
        "@register('mine', Settings)\ndef build(settings, folder): pass",
        "Settings has no `builder: Literal['mine']`",
    ),
    (
        "from mmpo.data.convert.format import Format\nfrom mmpo.data.convert.run import FORMATS\n"
        "FORMATS.add('trl', Format('trl', ''))",
        "two formats are called 'trl': one of mmpo, one of mine",
    ),
]


@pytest.mark.parametrize(("text", "message"), TAKEN)
def test_names_that_are_mmpos(check: Callable[..., str], module: Write, text: str, message: str) -> None:
    module("mine", text)
    assert message in check("plugins: [mine]")


def test_an_objective_that_returns_a_tensor(check: Callable[..., str], module: Write) -> None:
    """Told before the model is loaded, not by the first step."""
    module("mine", LOSS.format(name="bare", function="bare").replace("per_pair(", "("))
    told = check("plugins: [mine]", "--set", "train.objective={bare: {}}")
    assert "my.yaml" not in told and "train.objective: the objective bare returns no Term" in told


def test_a_notebook_may_run_its_definition_again() -> None:
    things: Registry[int] = Registry("things")
    things.add("a", 1, module="__main__")
    things.add("a", 2, module="__main__")
    assert dict(things) == {"a": 2}
    with pytest.raises(UserError, match="one of __main__, one of other"):
        things.add("a", 3, module="other")


SETTINGS = [
    ("build.per_image=0", "--set build.per_image=0: build.per_image: input should be greater than or equal to 1"),
    ("build.per_imag=2", "build.per_imag: unknown key; did you mean per_image?"),
    ("build.annotations=nowhere.jsonl", "build.annotations: nowhere.jsonl: no such annotation file"),
    ("train.objective.capped_dpo.cap=-1", "train.objective.capped_dpo.cap: must be greater than 0 (it is -1)"),
    ("train.objective.capped_dpo.cpa=1", "has no parameter 'cpa'"),
    ("eval.absent_yes.parser=pearl", "eval.absent_yes.parser: input should be 'official'"),
    ("eval.absent_yes.max_tokens=3", "eval.absent_yes.max_tokens: unknown key"),
    ("eval.benchmarks=[absent_no]", "'video_qa' or 'absent_yes' (it is 'absent_no')"),
]


@pytest.mark.parametrize(("setting", "message"), SETTINGS)
def test_settings_of_a_plug_in(
    mmpo: Invoke, example: Path, photos: Path, tiny_vip_folder: Path, setting: str, message: str
) -> None:
    from tests.plugins.test_running import RECIPE

    Path("my.yaml").write_text(RECIPE.format(model=tiny_vip_folder, photos=photos))
    result = mmpo("recipe", "check", "my.yaml", "--set", setting)
    assert result.exit_code == 2 and message in result.stderr, result.output


def test_a_wrong_setting_has_its_line(mmpo: Invoke, example: Path, photos: Path, tiny_vip_folder: Path) -> None:
    from tests.plugins.test_running import RECIPE

    text = RECIPE.format(model=tiny_vip_folder, photos=photos)
    Path("my.yaml").write_text(text.replace("per_image: 2", "per_image: many").replace("cap: 5", "cap: abc"))
    told = mmpo("run", "my.yaml").stderr
    assert "my.yaml:6: build.per_image: must be a whole number (it is 'many')" in told
    assert "my.yaml:8: train.objective.capped_dpo.cap: must be a number (it is 'abc')" in told
    (photos / "0.png").unlink()
    Path("my.yaml").write_text(text)
    assert "1 of 4 pictures looked at can't be opened" in mmpo("recipe", "check", "my.yaml").output


def test_a_changed_plug_in_does_not_go_on_with_a_run(
    mmpo: Invoke, module: Write, recipe: Path, new_process: Callable[[], None]
) -> None:
    file = module("mine", LOSS.format(name="mine", function="mine"))
    words = ("train", recipe, "--out", "out", "--set", "plugins=[mine]", "--set", "train.objective={mine: {}}")
    assert mmpo(*words).exit_code == 0
    before = plugins.loaded()["mine"].version
    again = mmpo(*words)
    assert again.exit_code == 0 and "done before" in again.stdout
    file.write_text(file.read_text() + "# another version\n")
    new_process()
    changed = mmpo(*words)
    assert changed.exit_code == 2
    now = plugins.loaded()["mine"].version
    assert f"was made with other settings: train.plugins.mine: '{before}' -> '{now}'" in changed.stderr


CRASHING = """\
from typing import Literal
from mmpo.data.convert.format import Format
from mmpo.data.convert.run import FORMATS
from mmpo.data_builders.builders import register
from mmpo.eval.scoring import scorer
from mmpo.settings import Settings

class Mine(Settings):
    builder: Literal["mine"]

@register("mine", Mine)
def build(settings, folder):
    raise RuntimeError("no luck\\nat all")

@scorer("mine")
def score(request):
    return build(None, None)

FORMATS.add("mine", Format("mine", "", lambda *rows: [], lambda row: build(None, None)))
"""


def test_a_crash_in_a_plug_in_is_told_as_its_own(
    mmpo: Invoke, module: Write, recipe: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module("mine", CRASHING)
    (here / "mine.yaml").write_text("name: mine\nplugins: [mine]\nbuild: {builder: mine}\n")
    (here / "rows.json").write_text('[{"a": 1}]')
    told = "error: the plug-in mine fails: mine.py:13: RuntimeError: no luck"
    for words, trace in (
        (("run", "mine.yaml", "--out", "out"), "the trace is at the end of out/run.log"),
        (("convert", "rows.json", "converted", "--plugin", "mine"), "most likely the plug-in's"),
        (("eval", "score", "mine", "--answers", "rows.json", "--plugin", "mine"), "MMPO_DEBUG=1 shows the trace"),
    ):
        result = mmpo(*words)
        said = " ".join(result.stderr.split())
        assert result.exit_code == 2 and told in said and trace in said, (words, result.output)
        assert "Traceback" not in result.output and "please report" not in said
    assert 'mine.py", line 13, in build' in (here / "out/run.log").read_text()

    # An error of mmpo's own is not the plug-in's; whether the plug-in has a part in it, only a run without it tells.
    monkeypatch.setattr("mmpo.trainers.train.train", lambda *given, **more: 1 / 0)
    said = " ".join(mmpo("train", recipe, "--out", "own", "--set", "plugins=[mine]").stderr.split())
    assert "ZeroDivisionError" in said and "please report it with that file, if it happens without mine as well" in said


def test_a_scorer_of_a_plug_in_scores_and_takes_no_name_of_mmpos(mmpo: Invoke, module: Write, here: Path) -> None:
    text = (
        "from mmpo.eval.scoring import Scored, scorer\n"
        "@scorer({name!r})\n"
        "def score(request):\n"
        "    rows = request.answers.read_text().splitlines()\n"
        "    return Scored({{'words': sum(len(row.split()) for row in rows)}}, ['mine'], len(rows), len(rows))\n"
    )
    module("mine", text.format(name="words"))
    module("thief", text.format(name="pope"))
    (here / "answers.txt").write_text("a b\nc\n")
    unknown = mmpo("eval", "score", "words", "--answers", "answers.txt")
    assert unknown.exit_code == 2 and "no benchmark is called 'words'" in unknown.stderr
    result = mmpo("eval", "score", "words", "--answers", "answers.txt", "--plugin", "mine", "--json")
    assert result.exit_code == 0 and '"words": 3' in result.stdout, result.output
    refused = mmpo("eval", "score", "words", "--answers", "answers.txt", "--plugin", "thief")
    assert refused.exit_code == 2 and "two scorers are called 'pope'" in refused.stderr


def test_importing_mmpo_and_its_help_load_no_plug_in(module: Write, here: Path) -> None:
    """Not even the list of entry points is read."""
    code = (
        "import sys, importlib.metadata as m\n"
        "m.entry_points = None\n"
        "from typer.testing import CliRunner\n"
        "from mmpo.cli.app import load_commands\n"
        "assert CliRunner().invoke(load_commands(), ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(load_commands(), ['run', '--help']).exit_code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
