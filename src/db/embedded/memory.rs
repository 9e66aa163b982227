//! The share of the machine's memory that the embedded PostgreSQL may fill with pages of its
//! tables.

use std::fs;
use std::path::Path;

const MB: u64 = 1024 * 1024;
/// PostgreSQL's own default, megabytes: enough for about a hundred thousand locks.
const LEAST_MB: u64 = 128;
/// Enough for about ten million locks, megabytes.
const MOST_MB: u64 = 4096;

/// The value for `shared_buffers`, megabytes: a quarter of the memory, as PostgreSQL's manual
/// suggests.
pub(super) fn shared_buffers_mb() -> u64 {
    let of_control_groups = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|groups| control_group_limit(Path::new("/sys/fs/cgroup"), &groups));
    let known = [of_machine(), of_control_groups]
        .into_iter()
        .flatten()
        .min();
    a_quarter_mb(known.unwrap_or(0))
}

fn a_quarter_mb(bytes: u64) -> u64 {
    (bytes / MB / 4).clamp(LEAST_MB, MOST_MB)
}

/// The memory of a Linux machine, bytes; `None` on other systems.
fn of_machine() -> Option<u64> {
    total(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn total(meminfo: &str) -> Option<u64> {
    let kilobytes = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?
        .trim()
        .strip_suffix(" kB")?;
    kilobytes.parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit of the control groups that this process is in and of those above them, bytes.
/// `groups` is its `/proc/self/cgroup`; `root` has the mounts of both versions of control groups.
///
/// A container sees its own group as the root of the mount, whatever `groups` says; groups that the
/// mount does not have are passed over.
fn control_group_limit(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().flat_map(|line| {
        // 0::/system.slice/lockable.service, or 9:memory:/docker/4f2a
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next(), parts.next());
        let path = path.unwrap_or_default().trim_start_matches('/');
        match controllers.unwrap_or_default() {
            // Version 2 has one mount, beside version 1 in a folder of its own. `memory.high` does
            // not kill, but slows everything down beyond it.
            "" => ["", "unified"]
                .iter()
                .flat_map(|mount| {
                    limits_up(&root.join(mount), path, &["memory.max", "memory.high"])
                })
                .collect(),
            list if list.split(',').any(|controller| controller == "memory") => {
                limits_up(&root.join("memory"), path, &["memory.limit_in_bytes"])
            }
            _ => Vec::new(),
        }
    });
    limits.min()
}

/// The limits in these files of a group and of all groups above it. `max` is no number, and no
/// limit.
fn limits_up(mount: &Path, path: &str, files: &[&str]) -> Vec<u64> {
    Path::new(path)
        .ancestors()
        .flat_map(|group| files.iter().map(move |file| mount.join(group).join(file)))
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_within_bounds() {
        assert_eq!(
            [0, 1024 * MB, 8192 * MB, 1 << 50].map(a_quarter_mb),
            [128, 256, 2048, 4096]
        );
    }

    #[test]
    fn the_kernels_words_are_understood() {
        assert_eq!(
            total("MemTotal:       24600 kB\nMemFree: 1 kB\n"),
            Some(24600 * 1024)
        );
        assert_eq!(total("MemFree: 1 kB\n"), None);
        let here = shared_buffers_mb();
        assert!((LEAST_MB..=MOST_MB).contains(&here), "{here}");
    }

    /// A folder with these files, as the kernel would mount it.
    fn mounted(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        root
    }

    #[test]
    fn the_limits_of_control_groups_are_found_in_both_versions() {
        const UNLIMITED_IN_1: &str = "9223372036854771712\n";
        for (what, files, groups, expected) in [
            (
                "a unit of systemd's, limited itself",
                &[("system.slice/lockable.service/memory.max", "1073741824\n")][..],
                "0::/system.slice/lockable.service\n",
                Some(1 << 30),
            ),
            (
                "a unit in a slice that is limited",
                &[
                    ("system.slice/lockable.service/memory.max", "max\n"),
                    ("system.slice/memory.max", "2147483648\n"),
                ],
                "0::/system.slice/lockable.service\n",
                Some(2 << 30),
            ),
            (
                "slowed down before it is killed",
                &[
                    ("a/memory.max", "2147483648\n"),
                    ("a/memory.high", "1073741824\n"),
                ],
                "0::/a\n",
                Some(1 << 30),
            ),
            (
                "a container with a namespace of its own",
                &[("memory.max", "536870912\n")],
                "0::/\n",
                Some(512 * MB),
            ),
            (
                "a container that sees its group as the root, and its path from outside",
                &[("memory/memory.limit_in_bytes", "536870912\n")],
                "9:memory:/docker/4f2a\n8:cpu:/docker/4f2a\n",
                Some(512 * MB),
            ),
            (
                "version 1, limited in the middle",
                &[
                    ("memory/docker/4f2a/memory.limit_in_bytes", UNLIMITED_IN_1),
                    ("memory/docker/memory.limit_in_bytes", "1073741824\n"),
                    ("memory/memory.limit_in_bytes", UNLIMITED_IN_1),
                ],
                "5:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/4f2a\n0::/docker/4f2a\n",
                Some(1 << 30),
            ),
            (
                "both versions at once",
                &[("unified/a/memory.max", "1073741824\n")],
                "0::/a\n",
                Some(1 << 30),
            ),
            ("none", &[("a/memory.max", "max\n")], "0::/a\n", None),
            ("words that are not understood", &[], "nonsense\n", None),
        ] {
            let root = mounted(files);
            assert_eq!(control_group_limit(root.path(), groups), expected, "{what}");
        }
    }
}
