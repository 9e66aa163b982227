//! `lockable man`: manual pages from the definitions of the commands.
//!
//! One page for each command, as `git` and `systemd` have them: `lockable(1)`, `lockable-run(1)`,
//! `lockable-admin-account-create(1)`.

mod examples;
mod roff;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Command};
use clap_mangen::Man;

use super::output;
use roff::Page;

/// `lockable man`.
#[derive(Args, Debug)]
#[command(after_help = EXPLANATION)]
pub(super) struct ManArgs {
    /// The command, such as `run` or `admin plan set` [default: lockable itself]
    #[arg(value_name = "COMMAND")]
    words: Vec<String>,
    /// Write the pages of all commands into this folder, such as /usr/share/man/man1
    #[arg(long, value_name = "FOLDER", conflicts_with = "words")]
    directory: Option<PathBuf>,
}

const EXPLANATION: &str = "\
Prints a page for man(1). To read it at once:

    lockable man run | man -l -";

/// The exit codes of commands that say nothing of theirs.
const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed; standard error says why
    2  called wrongly
  101  an error in this program";

/// Prints a page, or writes all of them.
///
/// # Errors
/// If there is no such command, or the pages cannot be written.
pub(super) fn print(args: &ManArgs, command: Command) -> anyhow::Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    if let Some(directory) = &args.directory {
        return write_all(&command, directory);
    }
    let mut found = &command;
    for word in &args.words {
        found = match found.find_subcommand(word) {
            Some(subcommand) if !subcommand.is_hide_set() => subcommand,
            _ => bail!("there is no command `{}`", args.words.join(" ")),
        };
    }
    Ok(output::bytes(&page(found)?)?)
}

/// The lines of all examples, for a test that they are commands.
#[cfg(test)]
pub(super) fn examples(mut command: Command) -> Vec<&'static str> {
    command.build();
    let titles = all(&command).into_iter().map(title);
    titles
        .flat_map(examples::of)
        .map(|(line, _)| *line)
        .collect()
}

fn write_all(command: &Command, directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the folder {}", directory.display()))?;
    for command in all(command) {
        let file = directory.join(format!("{}.1", title(command)));
        std::fs::write(&file, page(command)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// A command and those below it that are shown to people.
fn all(command: &Command) -> Vec<&Command> {
    let below = command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set())
        .flat_map(all);
    std::iter::once(command).chain(below).collect()
}

/// `lockable-admin-plan`.
fn title(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

/// The page of a command that is built.
fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let title = title(command);
    let man = Man::new(command.clone());
    let explanation = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let (explanation, exit_codes) = explanation
        .split_once("Exit codes:")
        .unwrap_or((&explanation, ""));
    let mut page = Page::default();
    // clap_mangen's has no date, and takes the next field for it.
    page.title(title, command.get_version().unwrap_or_default());
    man.render_name_section(page.bytes())?;
    page.section("SYNOPSIS");
    page.synopsis(&command.clone().render_usage().to_string());
    man.render_description_section(page.bytes())?;
    page.paragraphs(explanation);
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(page.bytes())?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(page.bytes())?;
    }
    page.section("EXIT STATUS");
    page.exit_codes(match exit_codes {
        "" => EXIT_CODES.trim_start_matches("Exit codes:"),
        exit_codes => exit_codes,
    });
    environment(&mut page, command);
    let examples = examples::of(title);
    if !examples.is_empty() {
        page.section("EXAMPLES");
        for (line, meaning) in examples {
            page.paragraphs(meaning);
            page.code(line);
        }
    }
    let see_also = examples::see_also(title);
    if !see_also.is_empty() {
        page.section("SEE ALSO");
        page.references(see_also);
    }
    Ok(page.into_bytes())
}

/// The environment variables that stand for options.
fn environment(page: &mut Page, command: &Command) {
    let mut variables: Vec<(String, String)> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .filter_map(|arg| {
            let variable = arg.get_env()?.to_string_lossy().into_owned();
            Some((variable, format!("The same as --{}.", arg.get_long()?)))
        })
        .collect();
    variables.sort();
    if variables.is_empty() {
        return;
    }
    page.section("ENVIRONMENT");
    for (variable, meaning) in &variables {
        page.item(variable, meaning);
    }
    page.paragraphs("An option wins over its variable. A variable that is empty counts as unset.");
}
