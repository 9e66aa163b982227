//! The table of version 1's calls. The dispatch, the hints of errors, the docs page and the tests
//! of authorization read it, so that none of them can lack a call.

use axum::http::Method;

/// A call of version 1. Its lock's name is the last segment of the path; it takes no body.
#[derive(Debug)]
pub struct Call {
    /// Its effect on the lock.
    pub operation: Operation,
    /// Its name in sentences.
    pub name: &'static str,
    /// The template of its route, which ends with `{name}`.
    pub template: &'static str,
    /// The methods that it can be made with.
    pub methods: &'static [Method],
    /// The query parameters that it takes.
    pub parameters: &'static [&'static str],
    /// The meaning of the answer `true`, for the documentation.
    pub true_means: &'static str,
    /// The meaning of the answer `false`, for the documentation.
    pub false_means: &'static str,
}

/// The effect of a call on a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Takes the lock.
    Acquire,
    /// Renews the lease.
    Heartbeat,
    /// Ends the lease.
    Release,
}

const GET_AND_POST: &[Method] = &[Method::GET, Method::POST];

/// Takes a lock.
pub static ACQUIRE: Call = Call {
    operation: Operation::Acquire,
    name: "acquire",
    template: "/v1/acquire/{name}",
    methods: GET_AND_POST,
    parameters: &["lease_ms", "wait_ms", "lease_id"],
    true_means: "It was free, or became free while you waited, and is yours now",
    false_means: "Somebody holds it, perhaps you, or others wait for it; after a wait: you did not \
                  get it in that time",
};

/// Renews a lease.
pub static HEARTBEAT: Call = Call {
    operation: Operation::Heartbeat,
    name: "heartbeat",
    template: "/v1/heartbeat/{name}",
    methods: GET_AND_POST,
    parameters: &["lease_ms", "lease_id"],
    true_means: "You hold it, and the lease is full length again",
    false_means: "You do not hold it (any more)",
};

/// Ends a lease.
pub static RELEASE: Call = Call {
    operation: Operation::Release,
    name: "release",
    template: "/v1/release/{name}",
    methods: GET_AND_POST,
    parameters: &["lease_id"],
    true_means: "You held it, and it is free now",
    false_means: "You did not hold it",
};

/// All calls, in the order of a lock's life.
pub static CALLS: [&Call; 3] = [&ACQUIRE, &HEARTBEAT, &RELEASE];

impl Call {
    /// The call of a path, and the offset at which the lock's name begins in the path.
    pub fn find(path: &str) -> Option<(&'static Self, usize)> {
        CALLS.into_iter().find_map(|call| {
            let name = path.strip_prefix(call.prefix())?;
            let is_one_segment = !name.is_empty() && !name.contains('/');
            is_one_segment.then(|| (call, path.len() - name.len()))
        })
    }

    /// The path up to the lock's name, with its last slash.
    pub fn prefix(&self) -> &'static str {
        self.template.strip_suffix("{name}").unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_by_their_path() {
        let found =
            |path| Call::find(path).map(|(call, name_at)| (call.operation, &path[name_at..]));
        for (path, operation, name) in [
            ("/v1/acquire/a", Operation::Acquire, "a"),
            ("/v1/heartbeat/a%2Fb", Operation::Heartbeat, "a%2Fb"),
            ("/v1/release/+", Operation::Release, "+"),
        ] {
            assert_eq!(found(path), Some((operation, name)));
        }
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1/acquire",
            "/v1/acquire/",
            "/v1/acquire//",
            "/v1/acquire/a/",
            "/v1/acquire/a/b",
            "/v1//a",
            "/v1/Acquire/a",
            "/v1/acquires/a",
            "/v2/acquire/a",
            "/x/v1/acquire/a",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn templates_end_with_the_name() {
        for call in CALLS {
            assert_eq!(call.prefix(), format!("/v1/{}/", call.name));
        }
    }
}
