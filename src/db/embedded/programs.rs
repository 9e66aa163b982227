//! Finding PostgreSQL's programs on this machine.

use std::path::{Path, PathBuf};

use super::super::children;

/// The oldest PostgreSQL whose behaviour the service was built on.
pub const OLDEST_MAJOR: u32 = 14;

/// One installation of PostgreSQL's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Their folder.
    pub bin: PathBuf,
    /// Their major version, such as 15.
    pub major: u32,
}

impl Programs {
    /// The path of one of them.
    pub fn path(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }

    /// Every complete installation of a version that is new enough, in this order: `$PG_BIN`,
    /// `PATH`, and then the places where packages put them, newest first.
    pub fn installed() -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        let mut consider = |bin: PathBuf| {
            // PATH often has a link to the real folder, which has the other programs too.
            let real = std::fs::canonicalize(bin.join("postgres"))
                .ok()
                .and_then(|it| it.parent().map(Path::to_path_buf));
            for bin in [Some(bin), real].into_iter().flatten() {
                if let Some(programs) = Self::in_folder(&bin)
                    && !found.contains(&programs)
                {
                    found.push(programs);
                }
            }
        };
        if let Some(bin) = std::env::var_os("PG_BIN").filter(|bin| !bin.is_empty()) {
            consider(bin.into());
        }
        if let Some(path) = std::env::var_os("PATH") {
            std::env::split_paths(&path).for_each(&mut consider);
        }
        let mut packaged: Vec<PathBuf> = Vec::new();
        // Debian and its kin; Alpine; Fedora's and the PGDG's RPMs.
        packaged.extend(subfolders("/usr/lib/postgresql", "").map(|it| it.join("bin")));
        packaged.extend(subfolders("/usr/libexec", "postgresql").map(|it| it.join("")));
        packaged.extend(subfolders("/usr", "pgsql-").map(|it| it.join("bin")));
        // Homebrew on Apple's processors and on Intel's.
        packaged.extend(subfolders("/opt/homebrew/opt", "postgresql").map(|it| it.join("bin")));
        packaged.extend(subfolders("/usr/local/opt", "postgresql").map(|it| it.join("bin")));
        packaged.sort_by_key(|bin| std::cmp::Reverse(Self::in_folder(bin).map(|it| it.major)));
        packaged.into_iter().for_each(&mut consider);
        found
    }

    fn in_folder(bin: &Path) -> Option<Self> {
        let all = ["postgres", "initdb", "pg_dump"]
            .iter()
            .all(|program| bin.join(program).is_file());
        let major = if all {
            major_of(&bin.join("postgres"))?
        } else {
            return None;
        };
        (major >= OLDEST_MAJOR).then(|| Self {
            bin: bin.to_path_buf(),
            major,
        })
    }
}

fn subfolders(parent: &str, prefix: &'static str) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
}

/// The major version in `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`; 18beta1 is 18.
fn major_of(postgres: &Path) -> Option<u32> {
    let output = children::command(postgres).arg("--version").output().ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = number
        .find(|c: char| !c.is_ascii_digit())
        .map_or(number, |end| &number[..end]);
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(
            parse_major("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse_major("postgres"), None);
    }

    #[test]
    fn programs_are_found_here() {
        let installed = Programs::installed();
        assert!(!installed.is_empty(), "run script/bootstrap");
        assert!(
            installed
                .iter()
                .all(|it| it.major >= OLDEST_MAJOR && it.path("initdb").is_file())
        );
    }
}
