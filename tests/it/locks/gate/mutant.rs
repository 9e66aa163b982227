//! The real functions and statements, and those without one of their clauses.

/// The lock of most scenarios.
pub(super) const LOCK: &str = "l";

/// A text in which clauses can be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// A function of the migration.
    Function(&'static str),
    /// A statement.
    Statement(Statement),
}
/// The function that decides at the gates.
pub(super) const GATE: Text = Text::Function("lock_gate");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    Acquire,
    Heartbeat,
    Release,
    ReleaseUnderLock,
    HeartbeatMember,
    /// As a node had them that knows no gates.
    OlderAcquire,
    OlderHeartbeat,
    OlderRelease,
    OlderReleaseUnderLock,
}

impl Statement {
    pub(super) fn real(self) -> &'static str {
        macro_rules! present {
            ($file:literal) => {
                include_str!(concat!("../../../../src/locks/engine/sql/", $file))
            };
        }
        match self {
            Self::Acquire => present!("acquire.sql"),
            Self::Heartbeat => present!("heartbeat.sql"),
            Self::Release => present!("release.sql"),
            Self::ReleaseUnderLock => present!("release_under_lock.sql"),
            Self::HeartbeatMember => present!("heartbeat_member.sql"),
            Self::OlderAcquire => include_str!("older/acquire.sql"),
            Self::OlderHeartbeat => include_str!("older/heartbeat.sql"),
            Self::OlderRelease => include_str!("older/release.sql"),
            Self::OlderReleaseUnderLock => include_str!("older/release_under_lock.sql"),
        }
    }
}

/// Clauses, and what the mutant has in their place. Every occurrence is replaced.
pub(super) type Mutant = &'static [(Text, &'static str, &'static str)];

pub(super) fn mutated(text: &str, of: Text, mutant: Mutant) -> String {
    let mut text = text.to_owned();
    for (_, clause, instead) in mutant.iter().filter(|(mutated, ..)| *mutated == of) {
        assert!(text.contains(clause), "{of:?} has no such clause: {clause}");
        text = text.replace(clause, instead);
    }
    text
}
