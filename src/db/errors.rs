//! The meaning of the database's errors for the request that got them.

/// True if the database could not be reached or could not finish: the outcome is unknown, 503.
/// False if it refused the statement, which is a bug of ours.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Configuration(_) => true,
        sqlx::Error::Database(database) => match database.code().as_deref() {
            // 08: connection; 53: out of resources; 57: intervention, shut-down, starting up; 58:
            // I/O; XX: internal.
            Some(code) if matches!(&code[..2], "08" | "53" | "57" | "58" | "XX" | "28") => true,
            // A standby that was asked to write: routed there before it was promoted.
            Some("25006") => true,
            Some(code) => is_contention_code(code),
            None => false,
        },
        _ => false,
    }
}

/// True if the statement lost against others and may simply be run again: serialization failure,
/// deadlock, `lock_timeout`.
pub fn is_contention(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|database| database.code().map(|code| is_contention_code(&code)))
        .unwrap_or(false)
}

fn is_contention_code(code: &str) -> bool {
    matches!(code, "40001" | "40P01" | "55P03")
}

/// The name of the constraint that refused a row, where one did.
pub fn violated_constraint(error: &sqlx::Error) -> Option<&str> {
    error
        .as_database_error()
        .and_then(|database| database.constraint())
}
