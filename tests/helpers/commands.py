"""Running the `ssd1b` command inside the test's own process."""

from ssd1b_jax import cli


def run(capsys, *arguments) -> tuple[int, str, str]:
    """The exit code, and what was written to standard output and standard error."""
    code = cli.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err
