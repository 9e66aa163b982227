//! `lockable completions`: scripts with which a shell completes this program's commands and
//! options.

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::output;

/// `lockable completions`.
#[derive(Args, Debug)]
#[command(after_help = EXPLANATION)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

const EXPLANATION: &str = "\
Prints the script. To try it, in bash:

    source <(lockable completions bash)

To have it always, write it to the place where the shell looks, as root or as a package:

    lockable completions bash > /usr/share/bash-completion/completions/lockable
    lockable completions zsh > /usr/share/zsh/site-functions/_lockable
    lockable completions fish > /usr/share/fish/vendor_completions.d/lockable.fish";

/// Prints the script of a shell.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn print(args: &CompletionsArgs, command: &Command) -> anyhow::Result<()> {
    // The generators offer hidden commands too, and panic if they cannot write.
    let shown = command.get_subcommands().filter(|it| !it.is_hide_set());
    let mut command = Command::new("lockable")
        .args(command.get_arguments())
        .subcommands(shown.cloned());
    let mut script = Vec::new();
    generate(args.shell, &mut command, "lockable", &mut script);
    Ok(output::bytes(&script)?)
}
