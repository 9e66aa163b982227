//! Lockable: a distributed lock service over HTTPS, on PostgreSQL.
