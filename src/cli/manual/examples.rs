//! What the definitions of the commands do not say: examples, and related pages.

/// A line for a shell, and what it does.
type Example = (&'static str, &'static str);

/// The examples of a page.
pub(super) fn of(title: &str) -> &'static [Example] {
    match title {
        "lockable" => &[
            (
                "lockable serve",
                "Runs a complete service on this machine, with a PostgreSQL of its own:",
            ),
            (
                "lockable run nightly-report -- ./report.sh",
                "Runs a job, of which no other can run meanwhile on any machine:",
            ),
        ],
        "lockable-run" => &[
            (
                "lockable run -w 30 nightly-report -- ./report.sh",
                "Waits at most 30 seconds for the lock:",
            ),
            (
                "lockable run -nqE 0 nightly-report -- ./report.sh",
                "For cron, on several machines: one of them does it, the others say nothing:",
            ),
        ],
        "lockable-acquire" => &[
            (
                "lockable acquire deploy && ./deploy.sh && lockable release deploy",
                "For a job that is surely shorter than the lease; others are for lockable-run(1):",
            ),
            (
                "lockable acquire deploy --wait 10 --json",
                "Waits at most 10 seconds, and prints the fencing token and the lease id:",
            ),
        ],
        "lockable-heartbeat" => &[("lockable heartbeat deploy", "Renews the lease:")],
        "lockable-release" => &[("lockable release deploy", "Gives the lock back:")],
        "lockable-status" => &[
            (
                "lockable status nightly-report --namespace ci",
                "Who holds the lock, and who waits for it:",
            ),
            (
                "lockable status -q nightly-report && echo running",
                "In a script:",
            ),
        ],
        "lockable-list" => &[
            (
                "lockable list --namespace ci --prefix deploy/",
                "The held locks whose names begin with deploy/:",
            ),
            (
                "lockable list --namespace ci --json | jq -r .name",
                "Their names alone:",
            ),
        ],
        "lockable-watch" => &[
            (
                "lockable watch nightly-report --namespace ci",
                "What happens to one lock:",
            ),
            (
                "lockable watch --namespace ci --json >> events.jsonl",
                "Writes all that happens in a namespace to a file:",
            ),
        ],
        "lockable-break" => &[
            (
                "lockable break nightly-report --namespace ci --reason \"host1 is gone\"",
                "Shows who holds the lock, and asks:",
            ),
            (
                "lockable break nightly-report --fencing-token 42 --reason stuck --yes",
                "In a script: this lease and no other:",
            ),
        ],
        "lockable-completions" => &[(
            "lockable completions bash > /usr/share/bash-completion/completions/lockable",
            "For all users of bash:",
        )],
        "lockable-man" => &[(
            "lockable man --directory /usr/share/man/man1",
            "Writes the pages of all commands:",
        )],
        "lockable-backup" => &[(
            "lockable backup /var/backups/lockable.dump",
            "Writes a backup while the service runs:",
        )],
        "lockable-admin" => &[
            (
                "lockable admin account create --email you@example.com --admin",
                "Makes the first administrator:",
            ),
            (
                "lockable admin token create --email you@example.com",
                "Makes an API token:",
            ),
        ],
        _ => &[],
    }
}

/// The pages that a reader of this one may want next, all of section 1.
pub(super) fn see_also(title: &str) -> &'static [&'static str] {
    match title {
        "lockable" => &["flock"],
        "lockable-run" => &["lockable", "lockable-status", "lockable-acquire", "flock"],
        "lockable-acquire" | "lockable-heartbeat" | "lockable-release" => {
            &["lockable", "lockable-run", "lockable-status"]
        }
        "lockable-status" => &[
            "lockable",
            "lockable-list",
            "lockable-watch",
            "lockable-break",
        ],
        "lockable-list" => &["lockable", "lockable-status", "lockable-watch"],
        "lockable-watch" => &["lockable", "lockable-status", "lockable-list"],
        "lockable-break" => &["lockable", "lockable-status", "lockable-watch"],
        _ => &["lockable"],
    }
}
