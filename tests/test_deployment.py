"""The Dockerfile, and the files of docs/serving.md for services that stay, as far as they can be checked here."""

import configparser
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path

from ssd1b_jax.cli import reference
from ssd1b_jax.cli.serve import KEY_VARIABLE

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def options_of_serve() -> set[str]:
    (serve,) = (command for command in reference.commands() if command.prog == "ssd1b serve")
    return {option for action in reference.options(serve) for option in action.option_strings}


def test_the_dockerfile_is_linted():
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    ran = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_the_dockerfile_copies_what_is_here_and_starts_our_command():
    sources = [
        name for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]
    ]
    assert sources and all((ROOT / name).exists() for name in sources)
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    assert set(sources) == kept
    assert 'ENTRYPOINT ["ssd1b", "serve", "--host", "0.0.0.0"]' in DOCKERFILE and "--host" in options_of_serve()
    assert re.search(r"^USER [1-9]", DOCKERFILE, re.MULTILINE) and "HEALTHCHECK" in DOCKERFILE
    extras = set(re.findall(r"EXTRA=(\w+)", PAGE))
    assert extras and all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)


def test_the_unit_starts_our_command():
    (unit,) = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    parsed = configparser.ConfigParser(strict=True, interpolation=None)
    parsed.optionxform = str
    parsed.read_string(unit)
    program, command, *arguments = shlex.split(parsed["Service"]["ExecStart"])
    assert Path(program).name == "ssd1b" and command == "serve"
    assert {word for word in arguments if word.startswith("--")} <= options_of_serve()
    assert parsed["Service"]["EnvironmentFile"] == "/etc/ssd1b.env" and f"`{KEY_VARIABLE}=" in PAGE  # no server is open


def test_proxies_lead_to_the_port_and_buffer_nothing():
    (nginx,) = re.findall(r"```nginx\n(.*?)```", PAGE, re.DOTALL)
    caddy = PAGE.rpartition("Behind Caddy")[2]
    for text in (nginx, caddy):
        assert text.count("{") == text.count("}") and "127.0.0.1:7860" in text
    assert "proxy_buffering off;" in nginx and "X-Forwarded-Proto $scheme;" in nginx and "flush_interval -1" in caddy
    lines = [line.strip() for line in nginx.splitlines() if line.strip()]
    assert all(line[-1] in ";{}" for line in lines)
