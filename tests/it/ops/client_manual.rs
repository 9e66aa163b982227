//! `lockable man` and `lockable completions`.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{failed, succeeded};
use crate::support::process::lockable;

fn run(arguments: &[&str]) -> std::process::Output {
    lockable().args(arguments).output().unwrap()
}

/// What groff complains about. Nothing if it is not installed.
fn complaints(page: &Path) -> String {
    let groff = Command::new("groff")
        .args(["-man", "-Tutf8", "-Kutf8", "-ww", "-z", "-rLL=78n"])
        .arg(page)
        .output();
    match groff {
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(_) => String::new(),
    }
}

#[test]
fn every_command_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("new/man1");
    succeeded(&run(&["man", "--directory", inner.to_str().unwrap()]));
    let mut pages: Vec<_> = std::fs::read_dir(&inner)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    pages.sort();
    for expected in [
        "lockable",
        "lockable-run",
        "lockable-break",
        "lockable-admin-plan-set",
    ] {
        assert!(
            pages.contains(&inner.join(format!("{expected}.1"))),
            "{pages:?}"
        );
    }
    assert!(
        !pages
            .iter()
            .any(|page| page.to_string_lossy().contains("watchdog"))
    );
    assert!(
        !pages
            .iter()
            .any(|page| page.to_string_lossy().contains("help"))
    );
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        let name = page.file_stem().unwrap().to_str().unwrap();
        assert!(
            text.contains(&format!(
                ".TH {} 1 \"\" \"lockable 0",
                name.replace('-', "\\-")
            )),
            "{text}"
        );
        for section in [
            "NAME",
            "\"SYNOPSIS\"",
            "DESCRIPTION",
            "\"EXIT STATUS\"",
            "\"SEE ALSO\"",
        ] {
            assert!(
                text.contains(&format!("\n.SH {section}\n")),
                "{name}: {section}"
            );
        }
        for line in text.lines().filter(|line| line.starts_with(['.', '\''])) {
            let request = line.split(' ').next().unwrap();
            let known = [
                ".TH", ".SH", ".SS", ".PP", ".TP", ".RS", ".RE", ".nf", ".fi", ".br",
            ];
            let is_of_generator = [".ie", ".el", ".IP"].contains(&request);
            assert!(
                known.contains(&request) || is_of_generator,
                "{name}: {line}"
            );
        }
        assert_eq!(complaints(page), "", "{name}");
    }
}

#[test]
fn a_page_has_exit_codes_variables_and_examples() {
    let page = succeeded(&run(&["man", "status"]));
    for expected in [
        ".SH \"EXIT STATUS\"\n.TP\n\\fB0\\fR\nthe lock is held\n.TP\n\\fB1\\fR\nthe lock is free",
        ".SH \"ENVIRONMENT\"\n.TP\n\\fBLOCKABLE_AUTH_TOKEN\\fR\nThe same as \\-\\-auth\\-token.",
        ".SH \"EXAMPLES\"\n",
        "lockable status \\-q nightly\\-report && echo running\n",
        "\\fBlockable\\-watch\\fR(1)",
    ] {
        assert!(page.contains(expected), "{expected}\nis not in\n{page}");
    }
    let run_page = succeeded(&run(&["man", "run"]));
    assert!(
        run_page.contains("\\fB76\\fR\nthe lease was lost"),
        "{run_page}"
    );
    assert!(run_page.contains("waits in line"), "{run_page}");
    let nested = succeeded(&run(&["man", "admin", "plan", "set"]));
    assert!(
        nested.contains(".TH lockable\\-admin\\-plan\\-set 1"),
        "{nested}"
    );
    // Of this machine and its environment, a page says nothing.
    let mut elsewhere = lockable();
    elsewhere
        .args(["man", "status"])
        .env("LOCKABLE_URL", "http://elsewhere")
        .env("LOCKABLE_NAMESPACE", "elsewhere")
        .env("HOME", "/nowhere");
    assert_eq!(succeeded(&elsewhere.output().unwrap()), page);
    let said = failed(&run(&["man", "nonsense"]), 1);
    assert!(said.contains("no command `nonsense`"), "{said}");
    failed(&run(&["man", "watchdog"]), 1);
}

#[test]
fn man_reads_the_page() {
    let page = succeeded(&run(&["man", "break"]));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lockable-break.1");
    std::fs::write(&file, page).unwrap();
    let Ok(shown) = Command::new("groff")
        .args(["-man", "-Tascii", "-P-cbou", "-rLL=200n"])
        .arg(&file)
        .output()
    else {
        return;
    };
    let shown = String::from_utf8(shown.stdout).unwrap();
    for expected in [
        "lockable-break(1)",
        "lockable break nightly-report --namespace ci --reason \"host1 is gone\"",
        "--fencing-token <N>",
        "LOCKABLE_NAMESPACE",
    ] {
        assert!(shown.contains(expected), "{expected}\nis not in\n{shown}");
    }
}

#[test]
fn bash_completes_commands_options_and_their_values() {
    let script = r#"
        source <("$0" completions bash)
        complete_line() {
            COMP_WORDS=("$@")
            COMP_CWORD=$(($# - 1))
            COMPREPLY=()
            _lockable lockable "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            echo "${COMPREPLY[@]}"
        }
        complete -p lockable
        complete_line lockable st
        complete_line lockable wat
        complete_line lockable status --na
        complete_line lockable completions ""
        complete_line lockable admin plan s
    "#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script])
        .arg(lockable().get_program())
        .stdin(Stdio::null());
    let output = bash.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let said = succeeded(&output);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("_lockable"), "{said}");
    assert_eq!(lines[1..4], ["status", "watch", "--namespace"], "{said}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(lines[4].contains(shell), "{said}");
        assert!(succeeded(&run(&["completions", shell])).contains("lockable"));
    }
    assert_eq!(lines[5], "show set", "{said}");
    failed(&run(&["completions", "tcsh"]), 2);
}

#[test]
fn readers_that_have_gone_and_full_disks() {
    for (name, stdout) in super::client_world::broken_outputs() {
        let mut command = lockable();
        command.args(["completions", "zsh"]).stdout(stdout);
        let code = command.stderr(Stdio::null()).status().unwrap().code();
        let expected = if name == "a full disk" { 1 } else { 0 };
        assert_eq!(code, Some(expected), "{name}");
    }
}
