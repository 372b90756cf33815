"""Texts of the user reach the terminal as they are, and printed commands can be pasted into a shell."""

import ast
import io
import re
from pathlib import Path

import pytest
from rich.table import Table

import evclip_ray
from evclip_ray.cli import display, main
from evclip_ray.cli.display import PlainConsole, rows_table
from evclip_ray.cli.progress import bars
from evclip_ray.formatting import printable, shell

PACKAGE = Path(evclip_ray.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
TEXTS = ["[x] study/run[/b]", "a [bold]b[/] :smile: \\[c", "clap\u00e9 \u7af6"]


def printed(value):
    stream = io.StringIO()
    PlainConsole(file=stream, width=140).print(value, soft_wrap=isinstance(value, str))
    return stream.getvalue()


@pytest.mark.parametrize("text", TEXTS)
def test_text_with_brackets_is_printed_as_it_is(text):
    assert printed(text) == f"{text}\n"


@pytest.mark.parametrize("text", TEXTS)
def test_title_head_and_cell_of_a_table_are_printed_as_they_are(text):
    table = Table(text, title=text, title_justify="left")
    table.add_row(text)
    assert printed(table).count(text) == 3
    assert text in printed(rows_table(text, [{"label": text}]))


def test_control_characters_and_bytes_are_escaped():
    assert printed("a\x1b[2J\rb\udce9\n\tc") == "a\\x1b[2J\\x0db\\xe9\n\tc\n".expandtabs()
    assert printable("\ud800") == "\\ud800"


def test_description_of_a_bar_is_shown_as_it_is(monkeypatch):
    stream = io.StringIO()
    console = PlainConsole(file=stream, width=140, force_terminal=True, color_system=None)
    monkeypatch.setattr(display, "console", console)
    with bars() as steps:
        steps("decoding [/b]", 0, 1)
    assert "decoding [/b]" in stream.getvalue()


def test_error_with_brackets_is_printed_as_it_is(call, tmp_path):
    result = call("tune", "debug", "--data", tmp_path / "[x] run[/b].csv")
    assert result.exit_code == 1
    assert "[x] run[/b].csv" in result.output


def test_words_of_a_command_are_quoted():
    command = shell("evclip-ray", "report", Path("my [x]/it's"))
    assert command == """evclip-ray report 'my [x]/it'"'"'s'"""


def test_only_the_plain_console_prints():
    """A console with markup, or `print`, would interpret or fail on a path with brackets."""
    forbidden = re.compile(r"\bConsole\(\w|rich\.markup|from_markup|markup=True|^\s*print\(", re.M)
    # The second one writes JSON lines and is no command.
    allowed = {PACKAGE / "cli" / "display.py", PACKAGE / "world" / "pretrain.py"}
    # A docstring's example may print.
    faults = [path for path in SOURCES if path not in allowed and forbidden.search(_without_doctests(path))]
    assert faults == []


def test_printed_commands_quote_their_paths():
    """A command with a placeholder is built by `shell`: `evclip-ray train {path}` breaks at a blank."""
    commands = rf"evclip-ray ({_COMMANDS}) [\w -]*|tensorboard --[^\"'\n]*|--(out|warm-start|root) "
    command = re.compile(rf"({commands})\{{(?!shell)")
    faults = [
        f"{path.relative_to(PACKAGE)}: {match[0]}"
        for path in SOURCES
        for match in command.finditer(path.read_text(encoding="utf-8"))
        if f"{path.name}: {match[0]}" not in _MESSAGES
    ]
    assert faults == []


def test_numbers_of_things_are_made_by_one_function():
    """`f"{n} videos"` prints "1 videos"; `counted(n, "video")` does not."""
    faults = {
        f"{path.relative_to(PACKAGE)}: {place}"
        for path in SOURCES
        for place in _uncounted(ast.parse(_text(path)))
    }
    assert sorted(faults - _NO_NUMBERS) == []


_THINGS = re.compile(
    r" ((?!of |no )[a-z]+ )?(actors|batches|checkpoints|classes|columns|copies|devices|epochs|failures|files|"
    r"folders|folds|frames|groups|labels|leaks|machines|masks|nodes|parameters|pictures|points|predictions|"
    r"problems|processes|replicas|requests|rows|runs|samples|seeds|sets|shards|shots|sources|splits|steps|"
    r"studies|tokens|trials|values|variants|videos|views|windows|workers|CPUs|GPUs)\b"
)
_NO_NUMBERS = {
    # Names and other texts in front of a plural or a verb, and numbers of a fixed width in a table.
    "cli/evaluate.py: interval + intervals over seeds",
    "cli/evaluate.py: videos + videos",
    "cluster/connection.py: os.getloadavg()[0] + processes",
    "cluster/lint/kubernetes.py: requirements.space.name + sets",
    "cluster/lint/launcher.py: requirements.space.name + sets",
    "data/video/view.py: settings[fixed[0]] + sets",
    "features/format.py: values.dtype + values",
    "models/methods/motion_prompts.py: frozen.clip.embed_dim + features",
    "models/video_encoder.py: self.name + reads pairs",
    "reports/sections/headline.py: text + views",
    "reports/sections/conditions.py: num_videos + videos",
    "reports/sections/conditions.py: setting('view.num_frames') + frames",
    "reports/sections/conditions.py: shots + videos",
    "reports/sections/conditions.py: classes + classes",
    "scaling/bootstrap.py: sets + different sets",
    "scaling/ladder.py: ladder.share_points + compares steps",
    "training/compiled.py: num_workers + workers",
    # A rate: "24.2 videos/s".
    "tuning/cost.py: step.videos / step.seconds + videos",
}


def _text(path):
    return path.read_text(encoding="utf-8")


def _uncounted(tree):
    """Yield the number and the noun of each text that puts a plural noun behind a number."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for match in re.finditer(r"%d" + _THINGS.pattern, node.value):
                yield match[0]
        elif isinstance(node, ast.JoinedStr):
            before = ""
            for number, text in zip(node.values, node.values[1:], strict=False):
                if not isinstance(number, ast.FormattedValue) or not isinstance(text, ast.Constant):
                    before = str(getattr(number, "value", ""))
                    continue
                # 4x3 views
                if before.endswith("x"):
                    continue
                name, match = ast.unparse(number.value), _THINGS.match(text.value)
                # A constant is never one; a text with `!r` is a name; `counted` ends with a verb.
                is_constant = re.fullmatch(r"(\w+\.)*_?[A-Z][A-Z0-9_]+", name)
                if match and not is_constant and number.conversion == -1 and not name.startswith("counted("):
                    yield f"{name} +{match[0]}"


_COMMANDS = "|".join(main.commands)
_MESSAGES = {
    # Errors that name an option with the value that was given for it.
    "export.py: --out {",
    "tuner.py: --out {",
    "tuner.py: --warm-start {",
    "warm_start.py: --warm-start {",
}


def _without_doctests(path):
    text = path.read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if ">>>" not in line)
