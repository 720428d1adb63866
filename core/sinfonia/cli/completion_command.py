"""`sinfonia completion`: a shell that reads the script completes commands and options."""

import click
from click.shell_completion import get_completion_class

PROGRAM = "sinfonia"
COMPLETE_VARIABLE = "_SINFONIA_COMPLETE"


@click.command(short_help="Print a script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes the commands and options of `sinfonia`.

    \b
    Once, or in the file that the shell reads at its start:
        eval "$(sinfonia completion bash)"                   # ~/.bashrc
        eval "$(sinfonia completion zsh)"                    # ~/.zshrc
        sinfonia completion fish | source                    # config.fish
    """
    made = get_completion_class(shell)
    assert made is not None, "click has these three"
    click.echo(made(ctx.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE).source())
