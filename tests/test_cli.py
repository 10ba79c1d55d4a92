"""The command line as a user meets it: one process per question."""

import subprocess
import sys

from mixloom import cli


def mixloom(*args, cwd=None):
    command = [sys.executable, "-m", "mixloom.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)


def test_an_unknown_command_names_the_nearest(capsys):
    assert cli.main(["stauts"]) == 2
    assert "did you mean 'status'?" in capsys.readouterr().err


def test_a_missing_argument_is_told_without_a_traceback(capsys):
    assert cli.main(["status"]) == 2
    err = capsys.readouterr().err
    assert "Missing argument" in err
    assert "mixloom status --help" in err


def test_status_of_nothing_says_what_to_name(capsys, tmp_path):
    assert cli.main(["status", str(tmp_path / "nope")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_missing_configuration_is_told_without_a_traceback(tmp_path):
    done = mixloom("run", tmp_path / "nope.yaml")
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_key_is_told_without_a_traceback(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("run_dir: out\nsource: []\n")
    done = mixloom("run", config)
    assert done.returncode == 2
    assert "unknown key 'source' (did you mean 'sources'?)" in done.stderr
    assert "Traceback" not in done.stderr
