//! What a database did with tickets and leases, in its own order: triggers write each version of a
//! row into a table, while the row's lock is held.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use sqlx::Row as _;
use uuid::Uuid;

use crate::support::database::Database;

/// Made by the test, and durable: it has to survive a crash as the rows do.
const REGISTER: &str = "
    CREATE TABLE register (
      seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL,
      origin text NOT NULL, is_deleted boolean NOT NULL, version jsonb NOT NULL);
    CREATE FUNCTION write_register() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        INSERT INTO register (at, origin, is_deleted, version)
        VALUES (clock_timestamp(), TG_TABLE_NAME, TG_OP = 'DELETE',
                CASE WHEN TG_OP = 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END);
        RETURN NULL;
      END $$;
    CREATE TRIGGER register AFTER INSERT OR UPDATE OR DELETE ON lock_tickets
      FOR EACH ROW EXECUTE FUNCTION write_register();
    CREATE TRIGGER register AFTER INSERT OR UPDATE OR DELETE ON lock_members
      FOR EACH ROW EXECUTE FUNCTION write_register();
    CREATE TRIGGER register AFTER INSERT OR UPDATE ON locks
      FOR EACH ROW EXECUTE FUNCTION write_register();
    CREATE TRIGGER register AFTER INSERT OR UPDATE ON nodes
      FOR EACH ROW EXECUTE FUNCTION write_register()";

/// All versions of tickets, leases and nodes.
#[derive(Debug, Default)]
pub(crate) struct Register {
    /// In the order in which they were written: for one lock, the order of its decisions.
    pub(super) versions: Vec<Version>,
    /// The last outage on record.
    pub(super) outage: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

#[derive(Debug, Clone)]
pub(super) struct Version {
    /// When the row was written. Its transaction may have committed later.
    pub(super) at: DateTime<Utc>,
    pub(super) is_deleted: bool,
    pub(super) row: RowVersion,
}

#[derive(Debug, Clone)]
pub(super) enum RowVersion {
    Ticket(TicketRow),
    Lease(LeaseRow),
    Node(NodeRow),
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct TicketRow {
    pub(super) name: String,
    pub(super) ticket: i64,
    pub(super) account_id: i64,
    pub(super) lease_id: Uuid,
    pub(super) node_id: i64,
    pub(super) waits_until: DateTime<Utc>,
    pub(super) claim_token: Option<i64>,
    pub(super) is_detached: bool,
}

/// An exclusive lease in its lock's row, or a shared lease or permit.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct LeaseRow {
    pub(super) name: String,
    pub(super) account_id: i64,
    pub(super) lease_id: Uuid,
    pub(super) fencing_token: i64,
    pub(super) acquired_at: DateTime<Utc>,
    pub(super) expires_at: DateTime<Utc>,
    pub(super) end_reason: i16,
    #[serde(default = "exclusive")]
    pub(super) permits: i32,
    #[serde(default)]
    pub(super) slot: Option<i32>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct NodeRow {
    pub(super) node_id: i64,
    /// `None` after it left a claim to lapse, until its next look.
    #[serde(deserialize_with = "finite")]
    pub(super) looked_at: Option<DateTime<Utc>>,
}

fn exclusive() -> i32 {
    1
}

fn finite<'de, D: Deserializer<'de>>(instant: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    Ok(String::deserialize(instant)?.parse().ok())
}

impl Register {
    /// Lets a database keep its register from now on.
    pub(crate) async fn keep(db: &Database) {
        db.execute(REGISTER).await;
    }

    /// All that a database has written so far.
    pub(crate) async fn read(db: &Database) -> Register {
        let rows = sqlx::query("SELECT at, origin, is_deleted, version FROM register ORDER BY seq")
            .fetch_all(&db.pool)
            .await
            .unwrap();
        let versions = rows.iter().map(|row| {
            let version: serde_json::Value = row.get("version");
            Version {
                at: row.get("at"),
                is_deleted: row.get("is_deleted"),
                row: match row.get("origin") {
                    "lock_tickets" => RowVersion::Ticket(serde_json::from_value(version).unwrap()),
                    "nodes" => RowVersion::Node(serde_json::from_value(version).unwrap()),
                    _ => RowVersion::Lease(serde_json::from_value(version).unwrap()),
                },
            }
        });
        let outage = sqlx::query(
            "SELECT outage_start, outage_end FROM service_clock WHERE outage_start > 'epoch'",
        )
        .fetch_optional(&db.pool)
        .await
        .unwrap();
        Register {
            versions: versions.collect(),
            outage: outage.map(|row| (row.get(0), row.get(1))),
        }
    }

    /// How often a node was declared dead because it had left a claim to lapse.
    pub(crate) fn deaths(&self) -> usize {
        let rows = self.versions.iter().map(|version| &version.row);
        rows.filter(|row| matches!(row, RowVersion::Node(node) if node.looked_at.is_none()))
            .count()
    }

    /// The lease ids of the tickets of a lock, in the order of the tickets.
    pub(crate) fn tickets(&self, lock: &str) -> Vec<Uuid> {
        let mut tickets: Vec<(i64, Uuid)> = self
            .versions
            .iter()
            .filter_map(|version| match &version.row {
                RowVersion::Ticket(row) if row.name == lock => Some((row.ticket, row.lease_id)),
                _ => None,
            })
            .collect();
        tickets.sort_unstable();
        tickets.dedup();
        tickets.into_iter().map(|(_, id)| id).collect()
    }
}
