//! Waiters keep their places across an outage, in which no node could look (P10).

use uuid::Uuid;

use super::kit::*;

const LIVES: Text = Text::Function("node_is_live");

/// An outage of ten seconds has ended; no node has looked since. The nodes' last looks were so long
/// before the outage began.
async fn outage(setting: &Setting, ended: &str, first: &str, second: &str) {
    setting
        .db
        .execute(&format!(
            "UPDATE service_clock SET last_ok_at = clock_timestamp() + interval '1 h',
                    outage_start = clock_timestamp() - interval '10 s' - {ended},
                    outage_end = clock_timestamp() - {ended};
             UPDATE nodes SET looked_at = clock_timestamp() - interval '10 s' - {ended}
                    - CASE node_id WHEN 1 THEN {first} ELSE {second} END"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_costs_waiters_their_places_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (waiter, behind) = (Uuid::new_v4(), Uuid::new_v4());
        setting.join(2, &Ask::waiting(waiter, 1)).await;
        setting.join(1, &Ask::waiting(behind, 1)).await;
        outage(
            setting,
            "interval '1 s'",
            "interval '0.4 s'",
            "interval '0.4 s'",
        )
        .await;
        let said = setting.first.ask(&Ask::of("release", holder)).await;
        said.claims() == [waiter]
    };
    let mutants: &[Mutant] = &[
        &[(
            LIVES,
            "OR looked_at > interval",
            "OR false AND looked_at > interval",
        )],
        &[(LIVES, "outage_end + interval '10 s'", "outage_end")],
    ];
    assert_needed(kept, mutants).await;
}

/// While the outage still runs, for the record: it ends with the next tick.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_without_an_end_that_costs_waiters_their_places_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (waiter, behind) = (Uuid::new_v4(), Uuid::new_v4());
        setting.join(2, &Ask::waiting(waiter, 1)).await;
        setting.join(1, &Ask::waiting(behind, 1)).await;
        setting
            .db
            .execute(
                "UPDATE service_clock SET last_ok_at = clock_timestamp() - interval '10 s';
                 UPDATE nodes SET looked_at = clock_timestamp() - interval '10.4 s'",
            )
            .await;
        let said = setting.first.ask(&Ask::of("release", holder)).await;
        said.claims() == [waiter]
    };
    let mutants: &[Mutant] = &[&[(
        LIVES,
        "WHEN clock_timestamp() > recent_until THEN open_start",
        "WHEN false THEN open_start",
    )]];
    assert_needed(kept, mutants).await;
}

/// A node that had died before the outage is dead after it.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_revives_a_dead_node_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (dead, live) = (Uuid::new_v4(), Uuid::new_v4());
        setting.join(2, &Ask::waiting(dead, 1)).await;
        setting.join(1, &Ask::waiting(live, 1)).await;
        outage(
            setting,
            "interval '1 s'",
            "interval '0.4 s'",
            "interval '3 s'",
        )
        .await;
        let said = setting.first.ask(&Ask::of("release", holder)).await;
        said.claims() == [live]
    };
    let revived: Mutant = &[(
        LIVES,
        "OR looked_at > interval '-2.5 s' +",
        "OR looked_at <",
    )];
    assert_needed(kept, &[revived]).await;
}

/// So is one that has not come back ten seconds after it.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_keeps_a_dead_node_alive_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (dead, live) = (Uuid::new_v4(), Uuid::new_v4());
        setting.join(2, &Ask::waiting(dead, 1)).await;
        setting.join(1, &Ask::waiting(live, 1)).await;
        outage(
            setting,
            "interval '11 s'",
            "interval '0.4 s'",
            "interval '0.4 s'",
        )
        .await;
        looked(&setting.db, 1, "interval '-1 s'").await;
        let said = setting.first.ask(&Ask::of("release", holder)).await;
        said.claims() == [live]
    };
    let kept_alive: Mutant = &[(
        LIVES,
        "outage_end + interval '10 s'",
        "outage_end + interval '1 h'",
    )];
    assert_needed(kept, &[kept_alive]).await;
}

/// The holder's lease lapsed in the outage: it may come back, and the waiter waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_in_the_grace_of_an_outage_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        setting.join(2, &Ask::waiting(Uuid::new_v4(), 1)).await;
        outage(
            setting,
            "interval '1 s'",
            "interval '0.4 s'",
            "interval '0.4 s'",
        )
        .await;
        let lapsed = "UPDATE locks SET expires_at = clock_timestamp() - interval '2 s'";
        setting.db.execute(lapsed).await;
        let said = setting.second.ask(&Ask::advance()).await;
        let back = setting.first.prove(Statement::Heartbeat, holder).await;
        said.claims().is_empty() && back.as_deref() == Some("renewed")
    };
    let graceless: Mutant = &[(
        GATE,
        "SELECT * INTO c FROM lease_clock;",
        "SELECT * INTO c FROM lease_clock; c.grace_ms := 0;",
    )];
    assert_needed(kept, &[graceless]).await;
}
